"""What rows may name, and what they may not, on a real file system."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from dsvl_pipeline.errors import FetchError
from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.sources.fetch import Fetcher
from dsvl_pipeline.sources.prefixes import Prefixes

COLUMNS = {"image": "image"}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job's directory with one image, beside a secret."""
    (tmp_path / "secret.txt").write_text("CANARY")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "a.jpg").write_bytes(b"pixels")
    (tmp_path / "job" / "m.csv").write_text("image\na.jpg\n")
    return tmp_path / "job"


def fetcher(job: Path, **settings: object) -> Fetcher:
    """A fetcher for a job whose manifest lies in ``job``."""
    return Fetcher(
        InputConfig.model_validate({"manifest": f"{job}/*.csv", "columns": COLUMNS, **settings})
    )


def error_of(fetch: Fetcher, uri: str) -> FetchError:
    """The error that reading ends with."""
    with pytest.raises(FetchError) as caught:
        fetch.read(uri)
    return caught.value


@pytest.mark.parametrize("spelling", ["{}/a.jpg", "file://{}/a.jpg", "file://localhost{}/a%2Ejpg"])
def test_a_file_beside_the_manifest_is_read(spelling: str, job: Path) -> None:
    """With the digest that lineage keeps."""
    fetched = fetcher(job).read(spelling.format(job))
    assert fetched.data == b"pixels"
    assert fetched.sha256 == hashlib.sha256(b"pixels").hexdigest()
    assert (fetched.etag, fetched.version) == (None, None)


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "file:/etc/passwd",
        "FILE:///etc/passwd",
        "{job}/../secret.txt",
        "{job}/%2e%2e/secret.txt",
        "file://{job}/%2e%2e/secret.txt",
        "{job}-beside/a.jpg",
        "file://server{job}/a.jpg",
    ],
)
def test_no_spelling_leaves_the_jobs_directories(uri: str, job: Path) -> None:
    """A manifest is written by others; the driver's and workers' own files are not theirs."""
    beside = job.with_name("job-beside")
    beside.mkdir()
    (beside / "a.jpg").write_bytes(b"CANARY")
    error = error_of(fetcher(job), uri.format(job=job))
    assert error.code in ("path_refused", "not_found")
    assert error.is_retryable  # a setting mends it, and no setting here enters a row's key


def test_links_count_as_what_they_lead_to(job: Path) -> None:
    """A link out of the directory is refused, one back into it is not."""
    (job / "out.jpg").symlink_to(job.parent / "secret.txt")
    (job / "in.jpg").symlink_to(job / "a.jpg")
    assert error_of(fetcher(job), f"{job}/out.jpg").code == "path_refused"
    assert fetcher(job).read(f"{job}/in.jpg").data == b"pixels"


def test_allowed_roots_open_further_directories(job: Path) -> None:
    """The refusal names the setting; the setting works, through links too."""
    uri = str(job.parent / "secret.txt")
    assert "input.allowed_roots" in str(error_of(fetcher(job), uri))
    (job.parent / "link").symlink_to(job.parent)
    assert fetcher(job, allowed_roots=str(job.parent / "link")).read(uri).data == b"CANARY"


def test_a_manifest_in_a_store_reaches_no_local_file(job: Path) -> None:
    """Whoever can write to the bucket must not read the workers' disks."""
    fetch = fetcher(job, manifest="s3://bucket/m.csv")
    error = error_of(fetch, f"{job}/a.jpg")
    assert error.code == "path_refused"
    assert "it has none" in str(error)


@pytest.mark.parametrize(
    ("settings", "allowed", "refused"),
    [
        ({}, "", "s3://a/k"),
        ({"manifest": "s3://a/m/*.csv"}, "s3://a/k s3://a/m/../k s3://a//k", "s3://b/k s3://ab/k"),
        ({"manifest": "s3://a/*.csv"}, "", "s3://a/../b/k S3://b/k s3://b/../a/k"),
        ({"manifest": "s3://a/m.csv", "allowed_prefixes": "s3://b/p"}, "s3://b/p/k", "s3://a/k"),
        ({"allowed_prefixes": ["s3://b/p/", "s3://c"]}, "s3://b/p/k s3://c/k", "s3://b/pk s3://b"),
        ({"allowed_prefixes": "s3://"}, "s3://a/k s3://b/../k", ""),
        ({"manifest": "s3://a/m.csv", "allowed_prefixes": []}, "", "s3://a/k"),
        ({"images": "s3://a/p/**/*.jpg", "allowed_prefixes": []}, "s3://a/p/k", "s3://a/k"),
        ({"documents": "s3://a/p//x.pdf"}, "s3://a/p//x.pdf", "s3://a/p/x.pdf"),
    ],
)
def test_prefixes_end_at_a_slash_however_a_key_is_spelled(
    settings: dict[str, object], allowed: str, refused: str
) -> None:
    """What a job reads by default is what it names itself; a setting says it otherwise."""
    settings = {"manifest": "m.csv", "columns": COLUMNS, **settings}
    prefixes = Prefixes(InputConfig.model_validate(settings))
    for uri in (*allowed.split(), "/local", "https://host/a"):
        assert not prefixes.refuse(uri)
    for uri in refused.split():
        assert prefixes.refuse(uri)


def test_images_and_documents_make_their_directories_readable(job: Path) -> None:
    """Globs, directories and single files alike."""
    for settings in (
        {"images": f"{job}/**/*.jpg"},
        {"images": str(job)},
        {"images": f"{job}/a.jpg"},
        {"documents": f"{job}/*.pdf"},
    ):
        fetch = Fetcher(InputConfig.model_validate(settings))
        assert fetch.read(f"{job}/a.jpg").data == b"pixels"
        assert error_of(fetch, f"{job.parent}/secret.txt").code == "path_refused"


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64,iVBORw0KGgo=",
        "javascript:alert(1)",
        "ftp://example.org/a.jpg",
        "gs://bucket/a.jpg",
        "s3a://bucket/a.jpg",
        "http://example.org/a.jpg",
        "HTTPS://example.org/a.jpg?X-Amz-Signature=CANARY",
        "https://user:CANARY@example.org/a.jpg",
    ],
)
def test_other_schemes_are_refused(uri: str, job: Path) -> None:
    """Without a secret in the message."""
    error = error_of(fetcher(job), uri)
    assert (error.code, error.is_retryable) == ("scheme_refused", True)
    assert "CANARY" not in str(error)


def test_a_long_uri_makes_a_short_message(job: Path) -> None:
    """A picture in a ``data:`` URI would otherwise fill the error column."""
    assert len(str(error_of(fetcher(job), "data:," + "x" * 100_000))) < 1000


def test_sizes_are_limited_for_images_and_documents_apart(job: Path) -> None:
    """The limit is the largest size allowed."""
    fetch = fetcher(job, max_image_bytes=5, max_document_bytes=6)
    error = error_of(fetch, f"{job}/a.jpg")
    assert (error.code, error.is_retryable) == ("too_large", True)  # a setting mends it
    assert "6 bytes" in str(error)
    assert fetch.read_document(f"{job}/a.jpg").data == b"pixels"


def test_what_is_not_there_has_a_code(job: Path) -> None:
    """Also an empty file, a directory, and a pipe that would make the reader wait for ever."""
    (job / "empty.jpg").touch()
    os.mkfifo(job / "pipe.jpg")
    (job / "file" / "below").parent.mkdir()
    fetch = fetcher(job)
    missing = error_of(fetch, f"{job}/none.jpg")
    assert (missing.code, missing.is_retryable) == ("not_found", True)  # it may come yet
    assert error_of(fetch, f"{job}/a.jpg/below").code == "not_found"
    assert error_of(fetch, f"{job}/empty.jpg").code == "empty"
    assert error_of(fetch, f"{job}/file").code == "not_a_file"
    assert error_of(fetch, f"{job}/pipe.jpg").code == "not_a_file"
    assert error_of(fetch, f"{job}/nul\0.jpg").code == "url_invalid"
    assert error_of(fetch, f"{job}/{'n' * 300}.jpg").code == "url_invalid"


def test_messages_are_text_whatever_a_path_is_called(job: Path) -> None:
    """One row with such a name must not keep a table from being written."""
    Path(os.fsdecode(os.fsencode(job) + b"/\xff")).mkdir()
    fetch = fetcher(job, allowed_roots=[os.fsdecode(os.fsencode(job) + b"/\xff")])
    for uri in (
        f"file://{job}/%FF",
        f"file://{job}/%FF/none.jpg",
        "file:///%ED%A0%80",
        "/etc/passwd",
    ):
        str(error_of(fetch, uri)).encode()


def test_no_permission_may_be_granted_later(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the kernel's refusal is played."""

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    error = error_of(fetcher(job), f"{job}/a.jpg")
    assert (error.code, error.is_retryable) == ("access_denied", True)


def test_a_name_that_is_not_utf8_survives_as_a_uri(job: Path) -> None:
    """Tables hold text only; such names travel percent-encoded."""
    (Path(os.fsdecode(os.fsencode(job) + b"/\xff.jpg"))).write_bytes(b"odd")
    assert fetcher(job).read(f"file://{job}/%FF.jpg").data == b"odd"
