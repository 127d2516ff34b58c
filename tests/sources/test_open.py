"""A whole input: globs, several inputs in one job, the order of rows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.job.places import absolute_input
from dsvl_pipeline.keys import content_id_from
from dsvl_pipeline.records import Row
from dsvl_pipeline.sources.open import open_input

FILES = ["b.JPG", "a.png", "deep/c.webp", "deep/er/d.tiff", "notes.txt", "e.odd", ".f.jpg"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A directory of images and other files."""
    for name in FILES:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "photos"


def rows(**settings: object) -> list[Row]:
    """All rows of a job's input."""
    return list(open_input(InputConfig.model_validate(settings)).rows())


def names(photos: Path, found: list[Row]) -> list[str]:
    """Row ids, relative to a directory."""
    return [row.row_id.removeprefix(f"{photos}/") for row in found]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["a.png", "b.JPG", "deep/c.webp", "deep/er/d.tiff"]),
        ("/", ["a.png", "b.JPG", "deep/c.webp", "deep/er/d.tiff"]),
        ("/*", ["a.png", "b.JPG"]),
        ("/**", ["a.png", "b.JPG", "deep/c.webp", "deep/er/d.tiff"]),
        ("/**/*", ["a.png", "b.JPG", "deep/c.webp", "deep/er/d.tiff"]),
        ("/d*/*", ["deep/c.webp"]),
        ("/*.odd", ["e.odd"]),
        ("/**/*.t*", ["deep/er/d.tiff", "notes.txt"]),
        ("/e.odd", ["e.odd"]),
        ("/notes.txt", ["notes.txt"]),
    ],
)
def test_patterns_name_images_unless_they_name_a_suffix(
    pattern: str, expected: list[str], photos: Path
) -> None:
    """A directory of photos also holds what is no photo; hidden files are never meant."""
    assert names(photos, rows(images=f"{photos}{pattern}")) == expected
    assert names(photos, rows(images=f"file://{photos}{pattern}")) == expected


def test_a_row_is_its_file_as_listed(photos: Path) -> None:
    """Size and time identify the content: nothing is read while planning."""
    [row] = rows(images=f"{photos}/*.png")
    uri = f"{photos}/a.png"
    found = os.stat(uri)
    assert row == Row(
        row_id=uri,
        kind="image",
        sources=(uri,),
        content_id=content_id_from(uri=uri, size=found.st_size, mtime_ns=found.st_mtime_ns),
    )


def test_overlapping_patterns_name_a_file_once(photos: Path) -> None:
    """In one order, whatever the order of the patterns."""
    patterns = [f"{photos}/deep", f"{photos}/*.png", f"{photos}", f"{photos}/deep/c.webp"]
    found = rows(images=patterns)
    assert names(photos, found) == ["a.png", "b.JPG", "deep/c.webp", "deep/er/d.tiff"]
    assert found == rows(images=patterns[::-1])
    assert not any(row.failure for row in found)


def test_relative_patterns_give_absolute_names(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers may run in another directory; the table may outlive this one."""
    monkeypatch.chdir(photos.parent)
    assert rows(images="photos/*.png")[0].sources == (f"{photos}/a.png",)
    config = InputConfig.model_validate({"images": ["photos", "s3://b/p"], "allowed_roots": "more"})
    absolute = absolute_input(config)
    assert absolute.images == (str(photos), "s3://b/p")
    assert absolute.allowed_roots == (f"{photos.parent}/more",)


def test_a_name_that_is_not_utf8_becomes_a_uri(photos: Path) -> None:
    """The table's columns could not hold it otherwise."""
    with open(os.fsencode(photos) + b"/\xff?.gif", "wb") as file:
        file.write(b"x")
    [row] = rows(images=f"{photos}/*.gif")
    assert row.row_id == row.sources[0] == f"file://{photos}/%FF%3F.gif"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{}/*.gif", "nothing found at {}/*.gif; {}/ holds others, e.g. .f.jpg, a.png, b.JPG"),
        ("{}/none/*.jpg", "{}/none/ does not exist"),
        ("{}/none", "{}/none does not exist"),
        ("{}/empty", "{}/empty holds no file"),
        ("gs://bucket/*.jpg", "'gs://bucket/*.jpg' cannot be listed"),
        ("https://me:secret@host/a.jpg", "'https://host/a.jpg' cannot be listed"),
    ],
)
def test_nothing_found_says_what_is_there(pattern: str, message: str, photos: Path) -> None:
    """When the input is opened, not when a row is wanted."""
    (photos / "empty").mkdir()
    config = InputConfig.model_validate({"images": pattern.format(photos)})
    with pytest.raises(ConfigError) as caught:
        open_input(config)
    assert "input.images: " in str(caught.value)
    assert message.replace("{}", str(photos)) in str(caught.value)


def test_one_job_may_read_all_kinds(photos: Path) -> None:
    """Manifest, then images, then documents; rows of files carry nothing."""
    (photos / "m.csv").write_text("image,n\nb.JPG,1\n")
    (photos / "p.pdf").write_bytes(b"pdf")
    config = InputConfig.model_validate(
        {
            "manifest": f"{photos}/m.csv",
            "images": f"{photos}/*.png",
            "documents": str(photos),
            "columns": {"image": "image"},
            "carry": "n",
        }
    )
    opened = open_input(config)
    found = list(opened.rows())
    assert [(row.kind, row.sources[0], row.carry) for row in found] == [
        ("image", f"{photos}/b.JPG", ("1",)),
        ("image", f"{photos}/a.png", (None,)),
        ("document", f"{photos}/p.pdf", (None,)),
    ]
    assert opened.carry_schema.names == ["n"]
    assert list(opened.rows()) == found  # the same again


def test_ids_are_unique_over_all_kinds(photos: Path) -> None:
    """A manifest may name a row as another input does."""
    (photos / "m.csv").write_text(f"id,image\n{photos}/a.png,b.JPG\n")
    found = rows(
        manifest=f"{photos}/m.csv",
        images=f"{photos}/*.png",
        columns={"id": "id", "image": "image"},
    )
    assert [row.row_id for row in found] == [f"{photos}/a.png", f"{photos}/a.png#2"]


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("/in/a.tif", "tiff"),
        ("/in/A.TIFF", "tiff"),
        ("s3://bucket/a.tif", "tiff"),
        ("https://host/a.tif?signature=x.jpg", "tiff"),
        ("s3://bucket/a.jpg?b.tif", "tiff"),  # of a key, `?` is a part
        ("https://host/a?name=b.tif", "image"),
        ("https://user@[::1/a.tif?signature=x", "tiff"),  # no address, which is found out later
        ("/in/a.jpg", "image"),
        ("/in/tif", "image"),
    ],
)
def test_a_name_tells_which_images_may_have_pages(tmp_path: Path, source: str, kind: str) -> None:
    """They are opened before it is known how many rows they are."""
    lines = [{"id": "one", "image": source}, {"id": "two", "image": [source, source]}]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for frames, wanted in (("pages", kind), ("first", "image"), ("error", "image")):
        config = InputConfig.model_validate(
            {
                "manifest": str(manifest),
                "columns": {"id": "id", "image": "image"},
                "frames": frames,
                "allowed_prefixes": ["s3://bucket"],
            }
        )
        assert [row.kind for row in open_input(config).rows()] == [wanted, "image"]


def skipped_by(setting: str, **settings: object) -> list[str]:
    """Names of the files that one setting of a job passes over."""
    source = open_input(InputConfig.model_validate(settings))
    assert list(source.rows())
    found = [name for one in source.skipped if one.setting == setting for name in one.examples]
    return sorted(os.path.basename(name) for name in found)


def mixed(folder: Path) -> str:
    """Make a directory that holds some of everything."""
    (folder / "deep").mkdir()
    for name in ("a.jpg", "deep/b.png", "c.pdf", "m.csv", "notes.txt", "d.odd"):
        (folder / name).write_text("image\nx.jpg\n")
    return str(folder)


@pytest.mark.parametrize(
    ("images", "documents"),
    [("", ""), ("/", "/*"), ("/**", ""), ("/**/*", "/**"), ("/*[!x]", "/")],
)
def test_what_another_setting_reads_is_not_passed_over(
    tmp_path: Path, images: str, documents: str
) -> None:
    """Images and documents of one directory: each setting lists its own."""
    here = mixed(tmp_path)
    both = {"images": here + images, "documents": here + documents}
    for setting in ("input.images", "input.documents"):
        found = skipped_by(setting, **both)
        assert {"a.jpg", "c.pdf"}.isdisjoint(found)
        assert {"notes.txt", "d.odd"} <= set(found)


def test_what_no_other_setting_reads_is_passed_over(tmp_path: Path) -> None:
    """Nor is what lies elsewhere, or what a pattern of the other setting does not name."""
    here = mixed(tmp_path)
    deep = skipped_by("input.documents", images=f"{here}/deep", documents=here)
    assert deep == ["a.jpg", "d.odd", "m.csv", "notes.txt"]
    named = skipped_by("input.documents", images=f"{here}/**/*.odd", documents=here)
    assert named == ["a.jpg", "b.png", "m.csv", "notes.txt"]


def test_a_manifest_among_its_pictures_is_not_passed_over(tmp_path: Path) -> None:
    """Nor are the pictures that the manifest's glob finds, and another setting reads."""
    here = mixed(tmp_path)
    columns = {"image": "image"}
    found = skipped_by("input.images", manifest=f"{here}/m.csv", images=here, columns=columns)
    assert found == ["c.pdf", "d.odd", "notes.txt"]
    found = skipped_by("input.manifest", manifest=here, images=here, columns=columns)
    assert found == ["c.pdf", "d.odd", "notes.txt"]


def test_a_missing_file_is_told_where_another_setting_would_read_it(tmp_path: Path) -> None:
    """It is nowhere, so the other setting does not read it either."""
    here = mixed(tmp_path)
    images = [f"{here}/a.jpg", f"{here}/gone.pdf", f"{here}/gone*.csv"]
    assert skipped_by("input.images", images=images, documents=here) == ["gone*.csv", "gone.pdf"]


def test_what_no_setting_reads_is_told_though_two_list_it(tmp_path: Path) -> None:
    """Hidden files and links to nothing: were each left to the other, nobody would tell."""
    here = mixed(tmp_path)
    (tmp_path / ".hidden.pdf").touch()
    (tmp_path / "lost.jpg").symlink_to("nowhere.jpg")
    for pattern in (f"{here}/*.*", f"{here}/**/*.*", f"{here}/**"):
        for setting in ("input.images", "input.documents"):
            found = skipped_by(setting, images=pattern, documents=pattern)
            assert {".hidden.pdf", "lost.jpg"} <= set(found)


def test_a_hidden_file_that_another_setting_names_is_not_passed_over(tmp_path: Path) -> None:
    """By its name, or by a pattern whose part begins as it does."""
    here = mixed(tmp_path)
    (tmp_path / ".hidden.pdf").touch()
    (tmp_path / "_tmp").mkdir()
    (tmp_path / "_tmp/e.pdf").touch()
    documents = [f"{here}/.h*.pdf", f"{here}/_tmp"]
    assert {".hidden.pdf", "e.pdf"}.isdisjoint(
        skipped_by("input.images", images=here, documents=documents)
    )


@pytest.mark.parametrize("pattern", ["a**/x.png", "**.png", "photos/***", "d/**b/*"])
@pytest.mark.parametrize("setting", ["images", "documents", "manifest"])
def test_a_malformed_pattern_is_an_error_of_the_job_file(
    photos: Path, setting: str, pattern: str
) -> None:
    """With the reason; also beside settings that are well."""
    settings = {
        "images": str(photos),
        "columns": {"image": "image"} if setting == "manifest" else {},
    }
    with pytest.raises(ConfigError, match="can only be an entire path component"):
        rows(**settings | {setting: f"{photos}/{pattern}"})


@pytest.mark.parametrize("spelling", ["absolute", "relative", "short"])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("f.heic", "HEIC pictures"),
        (".hidden.png", "hidden or set aside"),
        ("_tmp/g.png", "hidden or set aside"),
        ("notes.txt", "unknown type .txt"),
    ],
)
def test_a_file_that_is_passed_over_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str, name: str, why: str
) -> None:
    """However it is named, and only it."""
    here = mixed(tmp_path)
    (tmp_path / "_tmp").mkdir()
    for each in ("f.heic", ".hidden.png", "_tmp/g.png"):
        (tmp_path / each).touch()
    monkeypatch.chdir(tmp_path.parent)
    named = {"absolute": f"{here}/{name}", "relative": f"./{tmp_path.name}/{name}", "short": name}
    source = open_input(InputConfig.model_validate({"images": here}))
    ((setting, reason, uri),) = source.why_skipped(named[spelling])
    assert (setting, uri) == ("input.images", f"{here}/{name}")
    assert reason.startswith(why)
    assert source.why_skipped("a.jpg") == []
