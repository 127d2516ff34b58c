"""What a place is: the same answer for everybody who asks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.store import objects, uris


@pytest.mark.parametrize(
    ("uri", "scheme", "is_absolute"),
    [
        ("a/b.png", "file", False),
        ("/a/b.png", "file", True),
        ("C:b.png", "file", False),
        ("file:a", "file", False),
        ("file:///a", "file", True),
        ("file://localhost/a", "file", True),
        ("FILE:///a", "file", True),
        ("s3://b/k", "s3", True),
        ("S3://b/k", "s3", True),
        ("https://h/a", "https", True),
        ("data:,x", "data", True),
        ("~/a", "file", False),
    ],
)
def test_a_scheme_is_told_by_the_beginning(uri: str, scheme: str, is_absolute: bool) -> None:
    """A bare path has none, and is a local file."""
    assert uris.scheme_of(uri) == scheme
    assert uris.is_local(uri) == (scheme == "file")
    assert uris.is_absolute(uri) == is_absolute


@pytest.mark.parametrize("uri", ["s3://b/etc/passwd", "data:/etc/passwd", "https://h/etc/passwd"])
def test_what_is_no_file_is_no_path(uri: str) -> None:
    """Else a part of it would be one that nobody has named."""
    assert uris.encoded_path(uri) is None
    assert uris.path_of(uri) == uri


def test_only_lower_case_is_an_object() -> None:
    """Stores take no other; what looks like one is refused, never read as a file."""
    assert uris.is_object("s3://b")
    assert not uris.is_object("S3://b/k")
    with pytest.raises(ConfigError, match="use a path, file:///PATH or s3://BUCKET/KEY"):
        objects.read("S3://b/k")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~/a", "/home/me/a"),
        ("~/", "/home/me/"),
        ("~", "~"),
        ("~no-such-user/a", "~no-such-user/a"),
        ("./~/a", "./~/a"),
        ("a/~/b", "a/~/b"),
        ("file://~/a", "file://~/a"),
    ],
)
def test_a_tilde_and_a_slash_are_the_home_directory(
    path: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the beginning of a bare path, and nowhere else."""
    monkeypatch.setenv("HOME", "/home/me")
    assert uris.at_home(path) == expected


@pytest.mark.parametrize(
    ("uri", "directory", "is_below"),
    [
        ("/a/b", "/a", True),
        ("/a/b", "/a/", True),
        ("/a", "/a", True),
        ("/ab", "/a", False),
        ("/a", "/", True),
        ("s3://b/p/k", "s3://b", True),
        ("s3://b/p/k", "s3://b/p", True),
        ("s3://b/pk", "s3://b/p", False),
        ("s3://bc/k", "s3://b", False),
        ("s3://b/k", "s3://", True),
        ("s3://b/p//a", "s3://b/p//", True),
        ("s3://b/p/a", "s3://b/p//", False),
    ],
)
def test_below_ends_at_a_slash(uri: str, directory: str, is_below: bool) -> None:
    """Of directories, buckets and prefixes alike."""
    assert uris.is_below(uri, directory) == is_below


def test_inside_is_told_however_places_are_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By relative paths, URIs and links; a table in a store by its name."""
    (tmp_path / "table").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "table")
    monkeypatch.chdir(tmp_path)
    for place in ("table/x", "link/x", f"{tmp_path}/table/x", f"file://{tmp_path}/t%61ble/x"):
        for table in ("table", "table//", "link", f"file://{tmp_path}/link"):
            assert uris.is_inside(place, table)
            assert not uris.is_inside(f"{tmp_path}/table-2/x", table)
    assert uris.is_inside("s3://b/t/x.csv", "s3://b/t//")
    assert not uris.is_inside("s3://b/tx.csv", "s3://b/t")


def test_a_relative_file_uri_is_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the store as for a job's settings."""
    monkeypatch.chdir(tmp_path)
    for number, uri in enumerate(["file:a%20b", "file://in/a%20b", "in/c"]):
        objects.put(uri, b"%d" % number)
        assert objects.read(uris.local_path(uri)) == objects.read(uri) == b"%d" % number
    assert sorted(os.listdir(tmp_path / "in")) == ["a b", "c"]
