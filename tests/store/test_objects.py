"""Storage: whole objects or none, on the local disk and on a real S3 server over HTTP."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dsvl_pipeline.errors import (
    AccessError,
    ConfigError,
    NotFoundError,
    StorageError,
    TooLargeError,
)
from dsvl_pipeline.store import local, objects, s3
from tests.s3 import FaultyServer, Rule
from tests.store.claims import NUM_RACES, claim_all


@pytest.fixture(params=["local", "file", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place on each kind of store."""
    match request.param:
        case "local":
            return str(tmp_path)
        case "file":
            return f"file://{tmp_path}"
        case _:
            return str(request.getfixturevalue("s3_bucket"))


def test_what_is_put_is_read(root: str) -> None:
    """Replaced whole; size, time and (on S3) etag are told without reading."""
    uri = objects.join(root, "a dir", "x+%20.bin")
    objects.put(uri, b"old")
    objects.put(uri, b"newer")
    assert objects.read(uri) == b"newer"
    info = objects.stat(uri)
    assert (info.uri, info.size) == (uri, 5)
    assert abs(info.mtime_ns / 1e9 - time.time()) < 60
    assert (info.etag is not None) == root.startswith("s3://")
    assert info.etag == next(objects.list_objects(root)).etag


def test_an_empty_object_can_be_put_and_read(root: str) -> None:
    """Inputs may be empty files."""
    uri = objects.join(root, "empty")
    objects.put(uri, b"")
    assert objects.read(uri) == b""
    assert objects.read(uri, max_bytes=0) == b""


def test_first_of_many_writers_wins(root: str) -> None:
    """Exactly one caller is told that it wrote, and its body stands."""
    for race in range(10):
        uri = objects.join(root, f"{race}")
        bodies = [f"writer {writer}".encode() for writer in range(8)]
        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(lambda body, uri=uri: objects.put_if_absent(uri, body), bodies))
        assert won.count(True) == 1
        assert objects.read(uri) == bodies[won.index(True)]


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_first_of_many_processes_wins(root: str, start_method: str) -> None:
    """Forked children share no connections with a parent that was connected before."""
    objects.put(objects.join(root, "before"), b"the parent is connected")
    context = multiprocessing.get_context(start_method)
    with context.Pool(3) as pool:
        won = pool.starmap(claim_all, [(root, writer) for writer in range(3)])
        # Not by SIGTERM, for which a Ray of this process may have left a handler: one that is
        # called in the first moment of a fork is called in vain, and the process stays.
        pool.close()
        pool.join()
    assert sorted(race for races in won for race in races) == list(range(NUM_RACES))
    for writer, races in enumerate(won):
        for race in races:
            assert objects.read(objects.join(root, f"{race}")) == str(writer).encode()


def test_an_empty_claim_is_refused(root: str) -> None:
    """Some clients truncate the existing object for it."""
    with pytest.raises(ValueError, match="must not be empty"):
        objects.put_if_absent(objects.join(root, "x"), b"")


def test_reading_stops_at_the_limit(root: str) -> None:
    """A file of 10 GB must not fill the memory before it is refused."""
    uri = objects.join(root, "x")
    objects.put(uri, b"12345")
    assert objects.read(uri, max_bytes=5) == b"12345"
    with pytest.raises(TooLargeError, match="it has 5 bytes, but at most 4"):
        objects.read(uri, max_bytes=4)


def test_a_range_is_read_alone(root: str) -> None:
    """Up to the end of the object, not beyond it."""
    uri = objects.join(root, "x")
    objects.put(uri, b"0123456789")
    assert objects.read_range(uri, 2, 3) == b"234"
    assert objects.read_range(uri, 7, 100) == b"789"
    with pytest.raises(ValueError, match="the length is 0"):
        objects.read_range(uri, 2, 0)
    with pytest.raises(NotFoundError):
        objects.read_range(objects.join(root, "never"), 0, 1)


def test_missing_objects_are_told_apart_from_trouble(root: str) -> None:
    """A directory is not an object."""
    objects.put(objects.join(root, "a/x"), b"1")
    for uri in (objects.join(root, "a"), objects.join(root, "b")):
        assert not objects.exists(uri)
        with pytest.raises(NotFoundError):
            objects.stat(uri)
    assert objects.exists(objects.join(root, "a/x"))
    with pytest.raises(NotFoundError):
        objects.read(objects.join(root, "b"))


def test_delete_passes_over_what_is_gone(root: str) -> None:
    """Two cleaners may work side by side."""
    uris = [objects.join(root, f"d/{index}") for index in range(5)]
    for uri in uris:
        objects.put(uri, b"1")
    objects.delete([*uris[:4], objects.join(root, "never")])
    assert [info.uri for info in objects.list_objects(root)] == uris[4:]


NAMES = ["a.jpg", "a/b.jpg", "a/b/c.jpg", "a/b/d.png", "a-1.jpg", "a0/b.jpg", "é/z.jpg"]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("", NAMES),
        ("a", ["a/b.jpg", "a/b/c.jpg", "a/b/d.png"]),
        ("a/", ["a/b.jpg", "a/b/c.jpg", "a/b/d.png"]),
        ("a.jpg", ["a.jpg"]),
        ("a.jp", []),
        ("*.jpg", ["a.jpg", "a-1.jpg"]),
        ("a*", ["a.jpg", "a-1.jpg"]),
        ("**", NAMES),
        ("**/*.jpg", [name for name in NAMES if name.endswith(".jpg")]),
        ("a*/**/*.jpg", ["a/b.jpg", "a/b/c.jpg", "a0/b.jpg"]),
        ("a/**", ["a/b.jpg", "a/b/c.jpg", "a/b/d.png"]),
        ("?/b.jpg", ["a/b.jpg"]),
        ("a[0-9]/*", ["a0/b.jpg"]),
        ("nothing/here/*", []),
    ],
)
def test_listing_finds_exactly_what_matches(root: str, pattern: str, wanted: list[str]) -> None:
    """The same names in the same order on every store."""
    for name in NAMES:
        objects.put(objects.join(root, name), b"1")
    asked = f"{root}/{pattern}" if pattern else root
    found = [info.uri.removeprefix(f"{root}/") for info in objects.glob_objects(asked)]
    assert found == sorted(wanted)


@pytest.mark.parametrize("folder", ["v[1]", "what?", "st*r", "[", "a**b"])
def test_a_listing_takes_every_name_literally(root: str, folder: str) -> None:
    """Only what a job file calls a pattern is one; a table may lie anywhere."""
    uris = [objects.join(root, folder, name) for name in ("a", "b")]
    for uri in uris:
        objects.put(uri, b"1")
    objects.put(objects.join(root, "v1", "a"), b"1")
    listed = objects.list_objects(objects.join(root, folder))
    assert [info.uri for info in listed] == uris
    assert [info.uri for info in objects.list_objects(uris[0])] == uris[:1]


def test_listing_starts_after_a_name(root: str) -> None:
    """The log reads only what came after its checkpoint."""
    uris = [objects.join(root, "log", f"{index:03d}") for index in range(6)]
    for uri in uris:
        objects.put(uri, b"1")
    found = objects.list_objects(objects.join(root, "log"), start_after=uris[3])
    assert [info.uri for info in found] == uris[4:]


def test_malformed_patterns_and_other_schemes_are_refused(root: str) -> None:
    """What is allowed is named."""
    with pytest.raises(ConfigError, match=r"\*\*"):
        list(objects.glob_objects(f"{root}/a**b/*"))
    with pytest.raises(ConfigError, match=r"'gs://b/x' .* use a path, file:///PATH or s3://"):
        objects.read("gs://user:secret@b/x?token=1")
    with pytest.raises(ConfigError, match="spell the bucket out"):
        list(objects.glob_objects("s3://buck*/x"))
    with pytest.raises(ConfigError, match="must name a bucket and a key"):
        objects.read("s3://bucket")


def test_a_killed_writer_leaves_no_partial_file(tmp_path: Path) -> None:
    """Killed anywhere, a reader finds each file whole or not at all."""
    program = (
        "import sys, itertools; from dsvl_pipeline.store import objects\n"
        "for i in itertools.count():\n"
        "    body = bytes([i % 256]) * 3_000_000\n"
        "    objects.put(f'{sys.argv[1]}/same', body)\n"
        "    objects.put_if_absent(f'{sys.argv[1]}/{i}', body)\n"
    )
    for num_whole in range(1, 5):
        writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("[0-9]*"))) < num_whole and time.monotonic() < deadline:
            time.sleep(0.001)
        while not list(tmp_path.glob(".*.dsvl-tmp")) and time.monotonic() < deadline:
            pass
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    found = list(objects.list_objects(str(tmp_path)))
    assert found
    for info in found:
        body = objects.read(info.uri)
        assert len(body) == 3_000_000
        assert body == body[:1] * len(body)
    assert list(tmp_path.glob(".*.dsvl-tmp"))
    assert local.remove_temporaries(str(tmp_path), oldest_ns=time.time_ns() - 3600 * 10**9) == 0
    assert local.remove_temporaries(str(tmp_path), oldest_ns=2**63) > 0
    assert not list(tmp_path.glob(".*.dsvl-tmp"))


def test_a_writer_that_ends_meanwhile_stops_no_cleaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dsvl vacuum` beside a run: the run renames its temporary file before it is looked at."""
    (tmp_path / "a.dsvl-tmp").write_bytes(b"")
    found = list(os.walk(tmp_path))
    monkeypatch.setattr(os, "walk", lambda _: [(d, s, ["gone.dsvl-tmp", *n]) for d, s, n in found])
    assert local.remove_temporaries(str(tmp_path), oldest_ns=2**63) == 1


def test_local_listing_follows_links_but_never_in_circles(tmp_path: Path) -> None:
    """Data directories are often links; one of them may point upwards."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x.jpg").write_bytes(b"1")
    (tmp_path / "real/up").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    found = [info.uri for info in objects.glob_objects(f"{tmp_path}/linked/*")]
    assert found == [f"{tmp_path}/linked/x.jpg"]
    assert list(objects.list_objects(str(tmp_path)))


def test_a_file_uri_is_percent_decoded(tmp_path: Path) -> None:
    """As URIs are; what a listing gives reads back, whatever the names."""
    objects.put(f"file://{tmp_path}/a%20b%25", b"1")
    assert (tmp_path / "a b%").read_bytes() == b"1"
    for name in ("x%41.png", "caf\u00e9 [1]#?.png", os.fsdecode(b"\xff.png"), "sub%2F/y"):
        objects.put(f"{tmp_path}/{name}", os.fsencode(name))
    found = list(objects.list_objects(f"file://{tmp_path}"))
    assert [info.uri.removeprefix(f"file://{tmp_path}/") for info in found] == [
        "%FF.png",
        "a b%25",
        "caf\u00e9 [1]#?.png",
        "sub%252F/y",
        "x%2541.png",
    ]
    bodies = [objects.read(info.uri) for info in found]
    assert bodies[0] == b"\xff.png"
    assert bodies[3:] == [b"sub%2F/y", b"x%41.png"]


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    """What is written first under another name has a short one."""
    uri = str(tmp_path / ("\u6587" * 83 + ".csv"))  # 253 bytes
    objects.put(uri, b"1")
    assert objects.put_if_absent(uri, b"2") is False
    assert objects.read(uri) == b"1"


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A named pipe would block a worker for ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotFoundError, match="not a regular file"):
        objects.read(str(tmp_path / "pipe"))


def test_a_path_below_a_file_or_of_a_directory_is_the_users_mistake(tmp_path: Path) -> None:
    """What is read there is missing; what is written there names a wrong place: exit code 2."""
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "folder").mkdir()
    below, folder = str(tmp_path / "file" / "x" / "y"), str(tmp_path / "folder")
    for read in (objects.read, objects.stat):
        with pytest.raises(NotFoundError):
            read(below)
        with pytest.raises(NotFoundError, match="not a regular file"):
            read(folder)
    assert not objects.exists(below)
    assert list(objects.list_objects(below)) == []
    for put in (objects.put, objects.put_if_absent):
        with pytest.raises(AccessError, match="part of its path is a file"):
            put(below, b"1")
    with pytest.raises(AccessError, match="this is a directory") as caught:
        objects.put(folder, b"1")
    assert caught.value.exit_code == 2
    objects.delete([below])


def test_local_permission_is_an_access_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, whom no mode stops; so the system's answer is played."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(AccessError, match=r"Operation not permitted.*links"):
        objects.put_if_absent(str(tmp_path / "x"), b"1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("https://user:pw@host:8080/a.jpg?X-Amz-Signature=1#f", "https://host:8080/a.jpg"),
        ("s3://key:secret@bucket/a.jpg", "s3://bucket/a.jpg"),
        ("s3://bucket/a b.jpg", "s3://bucket/a b.jpg"),
        ("/tmp/what?.jpg", "/tmp/what?.jpg"),
        ("file:///tmp/a@b?.jpg", "file:///tmp/a@b?.jpg"),
        ("https://[half/a.jpg?k=1", "https://[hidden]"),
    ],
)
def test_redact_drops_credentials(uri: str, wanted: str) -> None:
    """Signed URLs carry them in the query, others before the host."""
    assert objects.redact(uri) == wanted


def test_redact_text_hides_what_the_environment_calls_a_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the service; places where secrets lie are no secrets."""
    monkeypatch.setenv("SOME_SERVICE_API_KEY", "canary-of-a-service")
    monkeypatch.setenv("DB_PASSWORD", "canary-of-a-database")
    monkeypatch.setenv("TOKEN_FILE", "/var/run/token-of-a-pod")
    text = "canary-of-a-service canary-of-a-database /var/run/token-of-a-pod"
    assert objects.redact_text(text) == "[hidden] [hidden] /var/run/token-of-a-pod"


def test_redact_text_hides_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Error messages of libraries repeat what they were given."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret-0123456789")
    text = (
        "GET https://u:canary1@h/x?sig=canary2 failed; AKIA" + "C" * 16 + " hf_" + "c" * 20 + " "
        "canary-secret-0123456789; X-Amz-Signature=canary3"
    )
    cleaned = objects.redact_text(text)
    assert "canary" not in cleaned
    assert "C" * 16 not in cleaned
    assert "c" * 20 not in cleaned
    assert "GET https://h/x failed" in cleaned


@pytest.mark.s3
@pytest.mark.parametrize("action", ["slow_down", "reset_before", "reset_after"])
def test_passing_trouble_is_not_seen(s3_faults: FaultyServer, action: str) -> None:
    """Four bad answers in a row are ordinary at scale."""
    uri = f"{s3_faults.uri}/x"
    for method in ("PUT", "HEAD", "GET", "DELETE"):
        s3_faults.rules.append(Rule(method=method, path="/x$", action=action, count=4))
    s3_faults.rules.append(Rule(method="GET", path="list-type", action=action, count=4))
    objects.put(uri, b"body")
    assert objects.stat(uri).size == 4
    assert objects.read(uri) == b"body"
    assert [info.uri for info in objects.list_objects(s3_faults.uri)] == [uri]
    objects.delete([uri])
    assert not objects.exists(uri)
    assert all(rule.count == 0 for rule in s3_faults.rules)


@pytest.mark.s3
def test_a_body_cut_short_is_read_again(s3_faults: FaultyServer) -> None:
    """Half an image must not pass for a broken image."""
    objects.put(f"{s3_faults.uri}/x", b"0123456789" * 1000)
    s3_faults.rules = [Rule(method="GET", path="/x$", action="truncate", count=2)]
    assert objects.read(f"{s3_faults.uri}/x", max_bytes=10_000) == b"0123456789" * 1000
    assert s3_faults.rules[0].count == 0


@pytest.mark.s3
def test_a_byte_that_changed_on_the_way_is_noticed(s3_faults: FaultyServer) -> None:
    """In both directions; a picture with a flipped byte would be answered as if it were whole."""
    uri, body = f"{s3_faults.uri}/x", b"0123456789" * 1000
    s3_faults.rules = [
        Rule(method="PUT", path="/x$", action="flip_sent", count=2),
        Rule(method="GET", path="/x$", action="flip", count=2),
    ]
    objects.put(uri, body)
    assert objects.read(uri) == body
    assert [rule.count for rule in s3_faults.rules] == [0, 0]


@pytest.mark.s3
def test_etags_need_not_be_digests(
    s3_faults: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a store that makes them otherwise one object is read twice, and then none."""
    monkeypatch.setattr("dsvl_pipeline.store.s3._has_its_md5", lambda *_: False)
    for name in "ab":
        objects.put(f"{s3_faults.uri}/{name}", b"body")
        assert objects.read(f"{s3_faults.uri}/{name}") == b"body"
    paths = [path.rpartition("/")[2] for method, path in s3_faults.requests if method == "GET"]
    assert paths == ["a", "a", "b"]


@pytest.mark.s3
def test_lasting_trouble_ends_after_a_bounded_number_of_tries(s3_faults: FaultyServer) -> None:
    """s3fs alone would try 25 times and 40 seconds."""
    s3_faults.rules = [Rule(method="GET", path="/x$", action="slow_down", count=-1)]
    with pytest.raises(StorageError, match=r"gave up after 8 attempts.*overloaded"):
        objects.read(f"{s3_faults.uri}/x")
    assert len(s3_faults.requests) == 8


@pytest.mark.s3
def test_a_lost_answer_to_a_claim_looks_like_a_loss(s3_faults: FaultyServer) -> None:
    """The caller settles it with a token; a conflict (409) is tried again."""
    s3_faults.rules = [Rule(method="PUT", path="/x$", action="reset_after")]
    assert not objects.put_if_absent(f"{s3_faults.uri}/x", b"mine")
    assert objects.read(f"{s3_faults.uri}/x") == b"mine"
    s3_faults.rules = [Rule(method="PUT", path="/y$", action="conflict", count=3)]
    assert objects.put_if_absent(f"{s3_faults.uri}/y", b"mine")


@pytest.mark.s3
def test_a_body_is_whole_when_a_store_sends_it_elsewhere(s3_faults: FaultyServer) -> None:
    """The client makes the request again by itself, for the region that it was told."""
    s3_faults.rules = [Rule(method="PUT", path="/x$", action="redirect")]
    assert objects.put_if_absent(f"{s3_faults.uri}/x", b"mine")
    assert objects.read(f"{s3_faults.uri}/x") == b"mine"
    assert [method for method, _ in s3_faults.requests].count("PUT") == 2


@pytest.mark.s3
def test_large_bodies_go_in_one_put(s3_faults: FaultyServer) -> None:
    """Multipart completion ignores the condition on some stores."""
    body = os.urandom(2**20) * 101
    assert objects.put_if_absent(f"{s3_faults.uri}/x", body)
    assert [method for method, _ in s3_faults.requests] == ["PUT"]


@pytest.mark.s3
def test_listing_goes_on_after_the_first_page(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page holds 1,000 names; here 3."""
    monkeypatch.setattr(s3, "LIST_PAGE_SIZE", 3)
    for index in range(10):
        objects.put(f"{s3_bucket}/{index:05d}", b"1")
    found = [info.uri for info in objects.list_objects(s3_bucket)]
    assert found == [f"{s3_bucket}/{index:05d}" for index in range(10)]


def test_an_endpoint_without_a_scheme_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and by the name of the variable."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(AccessError, match=r"AWS_ENDPOINT_URL is 'localhost:9000'.* http://"):
        objects.read("s3://bucket/x")


@pytest.mark.s3
def test_access_errors_say_what_to_check(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They are the user's to solve, so they exit with 2 and name the variables."""
    with pytest.raises(AccessError, match=r"no such bucket.*AWS_ENDPOINT_URL") as caught:
        objects.put("s3://no-such-bucket-here/x", b"1")
    assert caught.value.exit_code == 2
    with pytest.raises(AccessError, match="no such bucket"):
        list(objects.glob_objects("s3://no-such-bucket-here/x/*"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(AccessError, match=r"NoCredentialsError.*AWS_ACCESS_KEY_ID"):
        objects.read(f"{s3_bucket}/x")


@pytest.mark.s3
def test_an_unreachable_endpoint_is_named(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing to check is whether the address is right."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"http://127.0.0.1:9\b.* cannot be reached"):
        objects.read(f"{s3_bucket}/x")
