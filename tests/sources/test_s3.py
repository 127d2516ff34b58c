"""Every kind of input from an object store, over HTTP."""

from __future__ import annotations

import gzip
import hashlib
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsvl_pipeline.errors import ConfigError, FetchError, StorageError
from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.keys import content_id_from
from dsvl_pipeline.sources import manifest_file
from dsvl_pipeline.sources.fetch import Fetcher
from dsvl_pipeline.sources.open import open_input
from dsvl_pipeline.store import objects
from tests.s3 import FaultyServer, Rule

pytestmark = pytest.mark.s3


def config(**settings: object) -> InputConfig:
    """A job's input section."""
    return InputConfig.model_validate(settings)


def test_images_are_listed_with_their_etags(s3_bucket: str) -> None:
    """So that a changed object runs again, and an untouched one does not."""
    for name in ("p/b.jpg", "p/a.png", "p/x.txt", "other/c.jpg"):
        objects.put(f"{s3_bucket}/{name}", name.encode())
    job = config(images=f"{s3_bucket}/p")
    found = list(open_input(job).rows())
    assert [row.row_id for row in found] == [f"{s3_bucket}/p/a.png", f"{s3_bucket}/p/b.jpg"]
    etag = hashlib.md5(b"p/a.png").hexdigest()
    assert found[0].content_id == content_id_from(uri="", etag=etag, size=7)
    objects.put(f"{s3_bucket}/p/a.png", b"changed")
    again = list(open_input(job).rows())
    assert again[0].content_id != found[0].content_id
    assert again[1] == found[1]


def test_a_manifest_is_read_and_what_it_names(s3_bucket: str) -> None:
    """Relative names lie beside it, absolute ones anywhere in its bucket."""
    table = pa.table({"image": ["a.jpg", "../q/b.jpg", f"{s3_bucket}/c.jpg"]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    objects.put(f"{s3_bucket}/p/m.parquet", buffer.getvalue())
    job = config(manifest=f"{s3_bucket}/p/*.parquet", columns={"image": "image"})
    uris = [row.sources[0] for row in open_input(job).rows()]
    assert uris == [f"{s3_bucket}/{key}" for key in ("p/a.jpg", "q/b.jpg", "c.jpg")]
    objects.put(uris[0], b"pixels")
    fetched = Fetcher(job).read(uris[0])
    assert fetched.data == b"pixels"
    assert fetched.sha256 == hashlib.sha256(b"pixels").hexdigest()
    assert fetched.etag == hashlib.md5(b"pixels").hexdigest()


def test_a_changed_object_is_noticed_where_the_job_asks_for_it(
    s3_bucket: str, tmp_path: Path
) -> None:
    """Without `check_changes` an object that a manifest names counts as its URI, at no request."""
    path = tmp_path / "m.csv"
    path.write_text(f"image\n{s3_bucket}/a.jpg\n{s3_bucket}/b.jpg\n{s3_bucket}/none.jpg\ns3://\n")
    objects.put(f"{s3_bucket}/a.jpg", b"one")
    objects.put(f"{s3_bucket}/b.jpg", b"same")

    def ids(**settings: object) -> list[bytes]:
        settings |= {"allowed_prefixes": s3_bucket}
        job = config(manifest=str(path), columns={"image": "image"}, **settings)
        return [row.content_id for row in open_input(job).rows()]

    unchecked, checked = ids(), ids(check_changes=True)
    assert checked[2:] == [b"", b""]  # what is not there keeps its answers
    assert ids(check_changes=True) == checked
    objects.put(f"{s3_bucket}/a.jpg", b"two")
    assert ids() == unchecked
    again = ids(check_changes=True)
    assert (again[0] == checked[0], again[1:] == checked[1:]) == (False, True)


def test_rows_name_only_what_the_job_may_read(s3_faults: FaultyServer) -> None:
    """The credentials are the job's, not those of whoever wrote the manifest."""
    for key in ("p/a.jpg", "q/a.jpg", "a.jpg", "pq/a.jpg"):
        objects.put(f"{s3_faults.uri}/{key}", b"pixels")
    table = f"image\n{s3_faults.uri}/q/a.jpg\n{s3_faults.uri}/p/a.jpg\n".encode()
    objects.put(f"{s3_faults.uri}/m/m.csv", table)
    settings = {"manifest": f"{s3_faults.uri}/m/m.csv", "columns": {"image": "image"}}

    job = config(**settings, allowed_prefixes=f"{s3_faults.uri}/p/", check_changes=True)
    del s3_faults.requests[:]
    refused, allowed = open_input(job).rows()
    asked = [path for method, path in s3_faults.requests if method == "HEAD" and "jpg" in path]
    assert [path[-8:] for path in asked] == ["/p/a.jpg"]
    assert (refused.content_id, allowed.content_id != b"") == (b"", True)
    fetch = Fetcher(job)
    for read in (fetch.read, fetch.read_document):
        assert read(allowed.sources[0]).data == b"pixels"
        for key in (
            "q/a.jpg",
            "a.jpg",
            "pq/a.jpg",
            "p/../q/a.jpg",
            "p/x/../../q/a.jpg",
            "/p/a.jpg",
        ):
            del s3_faults.requests[:]
            with pytest.raises(FetchError, match=r"input\.allowed_prefixes") as caught:
                read(f"{s3_faults.uri}/{key}")
            assert (caught.value.code, caught.value.is_retryable) == ("path_refused", True)
            assert s3_faults.requests == []


def test_a_manifest_that_names_only_what_is_refused_stops_the_job(s3_bucket: str) -> None:
    """A million error rows would say no more than the first."""
    objects.put(f"{s3_bucket}/m.csv", b"image\ns3://photos/a.jpg\ns3://photos/b.jpg\n")
    settings = {"manifest": f"{s3_bucket}/m.csv", "columns": {"image": "image"}}
    with pytest.raises(ConfigError, match=r"input\.allowed_prefixes, e\.g\. s3://photos"):
        list(open_input(config(**settings)).rows())
    job = config(**settings, allowed_prefixes=["s3://photos"])
    assert len(list(open_input(job).rows())) == 2
    # A file of one stray row, the first of two, is that row's matter.
    objects.put(f"{s3_bucket}/n.csv", f"image\n{s3_bucket}/a.jpg\n".encode())
    job = config(manifest=f"{s3_bucket}/*.csv", columns={"image": "image"})
    assert len(list(open_input(job).rows())) == 3


def test_a_large_manifest_is_read_by_ranges(
    s3_faults: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest of gigabytes fits into no pod; one that is replaced meanwhile is not mixed."""
    monkeypatch.setattr(manifest_file, "MAX_WHOLE_BYTES", 1000)
    monkeypatch.setattr(manifest_file, "RANGE_BYTES", 5000)
    table = pa.table({"id": [f"{n:06d}" for n in range(9000)], "image": ["a.jpg"] * 9000})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=1000)
    text = "".join(f"{n:06d},a.jpg\n" for n in range(9000))
    for name, body in (
        ("m.parquet", buffer.getvalue()),
        ("m.csv", f"id,image\n{text}".encode()),
        ("m.csv.gz", gzip.compress(f"id,image\n{text}".encode())),
    ):
        uri = f"{s3_faults.uri}/{name}"
        objects.put(uri, body)
        job = config(manifest=uri, columns={"id": "id", "image": "image"})
        s3_faults.rules = [Rule(method="GET", path=name, action="truncate", every=3, count=3)]
        with monkeypatch.context() as patch:
            patch.setattr(objects, "read", None)
            assert [row.row_id for row in open_input(job).rows()] == table["id"].to_pylist()
        opened = open_input(job)
        objects.put(uri, body + b"\n")
        with pytest.raises(StorageError, match="replaced while it was read"):
            list(opened.rows())


def test_what_cannot_be_read_has_a_code(s3_bucket: str) -> None:
    """As for any other source."""
    objects.put(f"{s3_bucket}/a.jpg", b"12345")
    objects.put(f"{s3_bucket}/empty.jpg", b"")
    fetch = Fetcher(config(images=f"{s3_bucket}/*.jpg", max_image_bytes=4))

    def code(uri: str) -> str:
        with pytest.raises(FetchError) as caught:
            fetch.read(uri)
        return caught.value.code

    assert code(f"{s3_bucket}/none.jpg") == "not_found"
    assert code(f"{s3_bucket}/a.jpg") == "too_large"
    with pytest.raises(FetchError, match="holds 5 bytes, more than the limit of 4"):
        fetch.read(f"{s3_bucket}/a.jpg")
    assert code(f"{s3_bucket}/empty.jpg") == "empty"
    assert code("s3://") == "url_invalid"


def test_an_image_is_one_request(s3_faults: FaultyServer) -> None:
    """A billion of them are 400 dollars; size and ETag come with the bytes."""
    uri = f"{s3_faults.uri}/a.jpg"
    objects.put(uri, b"12345")
    fetcher = Fetcher(config(images=f"{s3_faults.uri}/*.jpg"))
    del s3_faults.requests[:]
    fetched = fetcher.read(uri)
    assert [method for method, _ in s3_faults.requests] == ["GET"]
    assert (fetched.data, fetched.etag) == (b"12345", hashlib.md5(b"12345").hexdigest())


def test_a_busy_store_costs_no_row(s3_faults: FaultyServer) -> None:
    """Two refusals and a body cut short, as on any busy day."""
    uri = f"{s3_faults.uri}/a.jpg"
    objects.put(uri, bytes(10_000))
    s3_faults.rules = [
        Rule(method="GET", path="a.jpg", action="slow_down", count=2),
        Rule(method="GET", path="a.jpg", action="truncate"),
    ]
    assert len(Fetcher(config(images=uri)).read(uri).data) == 10_000


def test_a_store_that_stays_down_makes_retryable_rows(s3_faults: FaultyServer) -> None:
    """The run goes on; the next one asks again."""
    uri = f"{s3_faults.uri}/a.jpg"
    objects.put(uri, b"x")
    s3_faults.rules = [Rule(method="GET", path="a.jpg", action="slow_down", count=-1)]
    with pytest.raises(FetchError) as caught:
        Fetcher(config(images=uri)).read(uri)
    assert (caught.value.code, caught.value.is_retryable) == ("unavailable", True)


def test_nothing_found_says_what_is_there(s3_bucket: str) -> None:
    """A missing bucket is told from an empty one."""
    objects.put(f"{s3_bucket}/p/x.txt", b"x")
    with pytest.raises(ConfigError, match=r"holds others, e\.g\. x\.txt"):
        open_input(config(images=f"{s3_bucket}/p/*.jpg"))
    with pytest.raises(ConfigError, match="holds no file"):
        open_input(config(images=f"{s3_bucket}/q/*.jpg"))
    with pytest.raises(ConfigError, match="no such bucket"):
        open_input(config(images="s3://no-such-bucket/q/*.jpg"))
