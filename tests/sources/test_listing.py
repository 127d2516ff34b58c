"""What patterns name: files by their names, whatever these are, and what is passed over."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from dsvl_pipeline.errors import ConfigError, FetchError
from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.job.places import absolute_input
from dsvl_pipeline.sources import listing, skips
from dsvl_pipeline.sources.fetch import Fetcher
from dsvl_pipeline.sources.formats.lake_tables import refuse_tables
from dsvl_pipeline.sources.open import open_input
from dsvl_pipeline.sources.prefixes import Prefixes
from dsvl_pipeline.sources.skips import Skips
from dsvl_pipeline.store import named, objects
from dsvl_pipeline.store.uris import resolved, row_id_of


def write(folder: Path, *names: str) -> None:
    """Make files that hold their own names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))


def listed(images: object, folder: Path) -> tuple[list[str], Mapping[str, Sequence[str]]]:
    """The rows of a job with images, and its skipped files by reason, relative to a directory."""
    source = open_input(InputConfig.model_validate({"images": images}))
    rows = [row.row_id.removeprefix(f"{folder}/") for row in source.rows()]
    reasons = {
        skipped.reason: [name.removeprefix(f"{folder}/") for name in skipped.examples]
        for skipped in source.skipped
    }
    return rows, reasons


ODD = [
    "scan[1].png",
    "st*r.png",
    "what?.png",
    "[.png",
    "]x[!a].png",
    " a b .png",
    "line\nbreak.png",
    "tab\t.png",
    "back\\slash.png",
    "-dash.png",
    "~",
    "~root",
    "per%20cent.png",
    "a#b?c=d&token=e.png",
    "caf\u00e9.png",
    "cafe\u0301.png",
    "ends in space.png ",
    "no suffix",
    "**",
    "$HOME.png",
    "{a,b}.png",
    "a:b.png",
    "trailing dot.",
    # Also what would be the pattern that names another of these.
    "x[1].png",
    "x[[]1].png",
    "x[[][[]]1].png",
    "x[*].png",
    "x*.png",
    "[?][!a].png",
    "*.png",
    "**x.png",
    "%2A.png",
    "x%5B1%5D.png",
    "x[[]1]%5B.png",
]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("spelling", ["relative", "absolute", "uri", "bare uri"])
def test_a_file_that_exists_is_that_file(
    name: str, spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is a pattern, and whatever it is; its neighbours are others."""
    write(tmp_path, *ODD, "scan1.png", "staar.png", "whatx.png", "perXXcent.png")
    monkeypatch.chdir(tmp_path)
    spellings = {
        "relative": name,
        "absolute": f"{tmp_path}/{name}",
        "uri": (tmp_path / name).as_uri(),
        "bare uri": f"file://{tmp_path}/{name.replace('%', '%25')}",
    }
    config = InputConfig.model_validate({"images": spellings[spelling]})
    absolute = absolute_input(config)
    assert absolute_input(absolute) == absolute
    for job in (config, absolute, InputConfig.model_validate_json(absolute.model_dump_json())):
        [row] = open_input(job).rows()
        assert row.row_id == f"{tmp_path}/{name}"
        assert Fetcher(job).read(row.sources[0]).data == name.encode()


FOLDERS = [
    "a[1]",
    "a[[]1]",
    "a[[][[]]1]",
    "*",
    "what?",
    "[",
    "x*y[!z]",
    "tail ",
    "caf\u00e9%20#",
    "**",
]


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(
    "pattern", ["", "/", "/*.png", "/**/*.png", "/[ab].png", "/in[2]/../*.png"]
)
def test_a_directory_that_exists_is_that_directory(name: str, pattern: str, tmp_path: Path) -> None:
    """Named as it is called, and with a pattern behind it."""
    write(tmp_path, *(f"{folder}/a.png" for folder in [*FOLDERS, "a1", "z", "whatx", "xaya"]))
    assert listed(f"{tmp_path}/{name}{pattern}", tmp_path)[0] == [f"{name}/a.png"]


@pytest.mark.parametrize("name", FOLDERS)
def test_the_working_directory_is_no_pattern(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative pattern has it in front; for manifests and documents too."""
    for folder in (name, "a1", "z", "whatx"):
        write(tmp_path, f"{folder}/a.png", f"{folder}/b.pdf")
        (tmp_path / folder / "m.csv").write_text("image\na.png\n")
    monkeypatch.chdir(tmp_path / name)
    job = InputConfig.model_validate(
        {
            "manifest": "*.csv",
            "images": "*.png",
            "documents": "**",
            "columns": {"image": "image"},
        }
    )
    for config in (job, absolute_input(job)):
        rows = list(open_input(config).rows())
        here = f"{tmp_path}/{name}"
        assert [row.sources[0] for row in rows] == [
            f"{here}/{file}" for file in ("a.png", "a.png", "b.pdf")
        ]


@pytest.mark.parametrize("kind", ["manifest", "documents"])
@pytest.mark.parametrize("name", ["m[[]1]", "m[1]", "m*", " m{a} #?", "%2A", "m\n"])
def test_manifests_and_documents_that_exist_are_those(kind: str, name: str, tmp_path: Path) -> None:
    """By the same rule as images."""
    for other in ("m[[]1]", "m[1]", "m*", " m{a} #?", "%2A", "m\n", "m1", "mx", "*"):
        write(tmp_path, f"{other}.pdf")
        (tmp_path / f"{other}.csv").write_text(f'prompt\n"{other}"\n')
    suffix = ".csv" if kind == "manifest" else ".pdf"
    settings: dict[str, object] = {kind: f"{tmp_path}/{name}{suffix}"}
    if kind == "manifest":
        settings["columns"] = {"prompt": "prompt"}
    config = InputConfig.model_validate(settings)
    for job in (config, absolute_input(config)):
        [row] = open_input(job).rows()
        assert (row.sources == (f"{tmp_path}/{name}.pdf",)) == (kind == "documents")
        assert (row.prompt == name) == (kind == "manifest")


def test_what_a_uri_encodes_is_no_wildcard(tmp_path: Path) -> None:
    """Other programs write them; a job's own absolute paths are spelled so, too."""
    write(tmp_path, "a*b/1.png", "axb/2.png", "a*b/x[1].png", "a*b/x1.png")
    for pattern, expected in {
        "a%2Ab/*.png": ["a*b/1.png", "a*b/x1.png", "a*b/x[1].png"],
        "a*b/*.png": ["a*b/1.png", "a*b/x1.png", "a*b/x[1].png"],
        "a?b/%31.png": ["a*b/1.png"],
        "a%2ab/x%5B1%5D.p*": ["a*b/x[1].png"],
        "../{}/a[*]b/x[1].pn[g]": ["a*b/x1.png"],
    }.items():
        uri = f"file://{tmp_path}/{pattern.format(tmp_path.name)}"
        assert listed(uri, tmp_path)[0] == expected
        job = absolute_input(InputConfig(images=(uri,)))
        assert listed(job.images, tmp_path)[0] == expected
    with pytest.raises(ConfigError, match="nothing found"):
        listed(f"file://{tmp_path}/a%3Fb/*.png", tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "{}/b/..%2Fw%3F/*.png",
        "{}%2Fw%3F/*.png",
        "{}/b%2F..%2Fw%3F/*.p%6Eg",
        "{}/w%3F%2F.%2F/*.png",
        "{}/b/%2E%2E/w%3F/*.png",
        "%2F{}/w%3F/*.png",
    ],
)
def test_a_uri_may_encode_slashes_and_dots(path: str, tmp_path: Path) -> None:
    """What it is resolved to is spelled as it means, and means the same when it is read again."""
    write(tmp_path, "w?/1.png", "b/2.png", "wx/3.png")
    uri = "file:" + path.format(str(tmp_path).lstrip("/") if path[0] == "%" else tmp_path)
    found = named.resolve(uri)
    assert found.pattern == f"{tmp_path}/w[?]/*.png"
    assert named.resolve(found.spelling) == found
    assert listed(uri, tmp_path)[0] == ["w?/1.png"]


def test_what_was_a_name_once_stays_one(tmp_path: Path) -> None:
    """Workers have another disk, where the directory of that name may be missing."""
    write(tmp_path, "a[1]/x.png")
    job = absolute_input(InputConfig.model_validate({"images": f"{tmp_path}/a[1]/*.png"}))
    (tmp_path / "a[1]").rename(tmp_path / "a1")
    with pytest.raises(ConfigError, match="does not exist"):
        open_input(job)
    with pytest.raises(FetchError, match="outside the job's directories"):
        Fetcher(job).read(f"{tmp_path}/a1/x.png")


def test_a_pattern_is_one_where_nothing_has_its_name(tmp_path: Path) -> None:
    """As before."""
    write(tmp_path, "scan1.png", "scan2.png", "scan3.png")
    assert listed(f"{tmp_path}/scan[12].png", tmp_path)[0] == ["scan1.png", "scan2.png"]
    write(tmp_path, "a*.png", "ab.png")
    assert listed(f"{tmp_path}/a[*].png", tmp_path)[0] == ["a*.png"]


def test_a_directory_whose_name_is_not_utf8_can_be_worked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job travels to workers, and into the table, as text."""
    here = tmp_path / os.fsdecode(b"\xff[1]")
    write(here, "a b.png")
    monkeypatch.chdir(here)
    job = absolute_input(InputConfig.model_validate({"images": "*.png", "allowed_roots": "."}))
    again = InputConfig.model_validate_json(job.model_dump_json())
    [row] = open_input(again).rows()
    assert row.row_id == f"file://{tmp_path}/%FF%5B1%5D/a%20b.png"
    assert Fetcher(again).read(row.sources[0]).data == b"a b.png"
    assert row_id_of(f"{here}/a b.png") == row.row_id


# ------------------------------------------------------------------------- what is passed over


OTHERWISE = "fit a pattern that is the name of a file or directory"


@pytest.mark.parametrize(
    ("pattern", "meant", "passed_over", "others"),
    [
        ("*.png", ["*.png"], ["a.png", "x1.png", "x[1].png", "x[[]1].png"], "*.pn[g]"),
        ("x[1].png", ["x[1].png"], ["x1.png"], "[x][1].png"),
        ("x[[]1].png", ["x[[]1].png"], ["x[1].png"], "x[[]1].p[n]g"),
        ("d*/*.png", ["d*/1.png"], ["dx/2.png"], "[d]*/*.png"),
        ("dx/*.png", ["dx/2.png"], [], ""),
        ("x[*].png", None, [], ""),
        ("d*", ["d*/1.png"], [], ""),
    ],
)
def test_what_a_name_would_mean_as_a_pattern_is_told(
    pattern: str,
    meant: list[str] | None,
    passed_over: list[str],
    others: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One file may have been named where a thousand were wanted; and how to name those."""
    here = tmp_path / "h*"
    write(tmp_path, "hx/a.png", "hx/d.png")
    write(here, "*.png", "a.png", "a.txt", ".b.png", "d*/1.png", "dx/2.png", "dy/3.txt")
    write(here, "x[1].png", "x[[]1].png", "x1.png")
    monkeypatch.chdir(here)
    if meant is None:
        with pytest.raises(ConfigError, match="nothing found"):
            listed(pattern, here)
        return
    rows, skipped = listed(pattern, here)
    assert rows == meant
    told = {reason.partition(",")[0]: names for reason, names in skipped.items()}
    assert told.get(OTHERWISE, []) == passed_over[: skips.MOST_EXAMPLES]
    assert not told.keys() - {OTHERWISE, "hidden or set aside (a part of the path that no pattern"}
    if others:
        rows, skipped = listed(others, here)
        assert set(passed_over) <= set(rows)
        assert OTHERWISE not in str(skipped)
        rows, skipped = listed([pattern, others], here)
        assert OTHERWISE not in str(skipped)


def test_names_that_were_resolved_are_not_looked_at_again(tmp_path: Path) -> None:
    """Nor those whose wildcards the job itself has escaped."""
    write(tmp_path, "*.png", "a.png")
    job = absolute_input(InputConfig(images=(f"{tmp_path}/*.png",)))
    for images in (job.images, f"{tmp_path}/[*].png"):
        assert listed(images, tmp_path) == (["*.png"], {})


def test_few_names_are_looked_at_as_patterns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a listing; a job may name thousands."""
    monkeypatch.setattr(listing, "_MOST_OTHERWISE", 2)
    names = [f"{n}[1].png" for n in range(5)]
    write(tmp_path, *names, *(f"{n}1.png" for n in range(5)))
    rows, skipped = listed([f"{tmp_path}/{name}" for name in names], tmp_path)
    assert rows == names
    assert list(skipped.values()) == [["01.png", "11.png"]]


ASIDE = "hidden or set aside"


def test_a_phone_s_directory_tells_what_it_holds_besides(tmp_path: Path) -> None:
    """Each file becomes a row, or is told by reason."""
    names = [
        "1.png",
        "2.HEIC",
        "3.jxl",
        "4.png ",
        "@eaDir/thumb.png",
        ".Trash-1000/deleted.png",
        ".thumbnails/1.png",
        "Thumbs.db",
        "IMG_1.CR2",
        "README",
    ]
    write(tmp_path, *names)
    rows, skipped = listed(str(tmp_path), tmp_path)
    assert rows == ["1.png"]
    assert {reason.partition(" (")[0] for reason in skipped} == {
        ASIDE,
        "HEIC pictures, which are not read",
        "JPEG XL pictures, which are not read",
        "names that end in white space",
        "camera raw pictures, which are not read",
        "no suffix",
        "unknown type .db",
    }
    assert sorted(name for found in skipped.values() for name in found) == sorted(names[1:])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["_DSC1.JPG", "a.png", "y=1/_b=2/h.png"]),
        ("/*", ["_DSC1.JPG", "a.png"]),
        ("/**/*.png", ["a.png", "y=1/_b=2/h.png"]),
        ("/*.png", ["a.png"]),
        ("/.*.png", [".b.png"]),
        ("/_private/*.png", ["_private/c.png"]),
        ("/_p*/*.png", ["_private/c.png"]),
        ("/*/c.png", None),
        ("/_private", ["_private/c.png"]),
        ("/_private/.deep/d.png", ["_private/.deep/d.png"]),
        ("/_private/**", ["_private/c.png"]),
        ("/**/.deep/*", ["sub/.deep/f.png"]),
        ("/**/_private/**/*.png", ["_private/c.png"]),
        ("/.b.png", [".b.png"]),
        ("/@*/*.png", ["@eaDir/e.png"]),
        ("/_temporary/**/*.png", ["_temporary/0/g.png"]),
    ],
)
def test_what_is_set_aside_is_read_where_it_is_named(
    pattern: str, expected: list[str] | None, tmp_path: Path
) -> None:
    """As in a shell; cameras call pictures _DSC1.JPG, and partitions may be called _b=2."""
    write(
        tmp_path,
        "_DSC1.JPG",
        "a.png",
        ".b.png",
        "_private/c.png",
        "_private/.deep/d.png",
        "@eaDir/e.png",
        "sub/.deep/f.png",
        "_temporary/0/g.png",
        "y=1/_b=2/h.png",
    )
    if expected is None:
        with pytest.raises(ConfigError, match="1 skipped: hidden or set aside"):
            listed(f"{tmp_path}{pattern}", tmp_path)
    else:
        assert listed(f"{tmp_path}{pattern}", tmp_path)[0] == expected


def test_a_file_that_another_pattern_names_is_not_skipped(tmp_path: Path) -> None:
    """Nor is one counted twice that two patterns pass over."""
    write(tmp_path, "a.png", ".b.png", "d/.c.png", "d/e.txt")
    rows, skipped = listed([str(tmp_path), f"{tmp_path}/.b.png", f"{tmp_path}/d"], tmp_path)
    assert rows == [".b.png", "a.png"]
    reasons = {reason.partition(" (")[0]: found for reason, found in skipped.items()}
    assert reasons == {
        ASIDE: ["d/.c.png"],
        "unknown type .txt": ["d/e.txt"],
        "patterns that name no file": ["d"],
    }


def test_a_pattern_that_names_nothing_beside_others_is_told(tmp_path: Path) -> None:
    """A whole month may be missing for a typing mistake."""
    write(tmp_path, "june/a.png")
    rows, skipped = listed([f"{tmp_path}/june", f"{tmp_path}/julu/*.png"], tmp_path)
    assert rows == ["june/a.png"]
    assert skipped == {"patterns that name no file": ["julu/*.png"]}


def test_what_cannot_be_read_is_told_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links to themselves, upwards and to nothing, pipes, sockets; whoever may not list a part."""
    write(tmp_path, "a.png", "closed/b.png", "deep/c.png")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "deep/up").symlink_to("..")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "link.png").symlink_to("a.png")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)
        server.bind("socket.png")
    scandir = os.scandir

    def refuse(path: str) -> object:  # tests may run as root, whom no mode stops
        if path.rstrip("/").endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for pattern in (str(tmp_path), f"{tmp_path}/**/*.png"):
        rows, skipped = listed(pattern, tmp_path)
        assert rows == ["a.png", "deep/c.png", "link.png"]
        told = {name for found in skipped.values() for name in found}
        named = {"self.png", "gone.png", "pipe.png", "socket.png", "closed/", "deep/up/"}
        assert told == named | ({"one", "two"} if pattern == str(tmp_path) else set())
    assert set(skipped) == {
        "files that cannot be read (Too many levels of symbolic links)",
        "links to nothing",
        "pipes, sockets and devices",
        "directories that cannot be listed (Permission denied)",
        "links to a directory above it",
    }


@pytest.fixture
def abyss(tmp_path: Path) -> Iterator[Path]:
    """Directories in each other; taken away again, as Python's own ways cannot do that."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    yield tmp_path
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


def test_a_directory_may_be_thousands_deep(abyss: Path) -> None:
    """Deeper than Python calls functions, and than a path may be long."""
    write(abyss, "a.png", "z.png", "/".join(["d"] * 1500) + "/.b/c.png")
    rows, skipped = listed(str(abyss), abyss)
    assert rows == ["a.png", "z.png"]
    assert len(skipped) == 2
    assert any("File name too long" in reason for reason in skipped)


def test_reasons_and_examples_are_bounded() -> None:
    """Names are strangers': each may have a type of its own."""
    found = Skips()
    for number in range(1000):
        found.add("input.images", f"unknown type .{number}", f"/in/{number}." + "x" * 1000)
        found.add("input.images", "no suffix", "https://host/a?token=canary")
    report = found.report()
    assert len(report) == skips.MOST_REASONS + 1
    assert sum(skipped.count for skipped in report) == 2000
    assert all(len(skipped.examples) <= skips.MOST_EXAMPLES for skipped in report)
    assert "canary" not in repr(report)
    assert len(repr(report)) < 50_000


def test_an_empty_place_says_what_was_passed_over(tmp_path: Path) -> None:
    """A phone that only holds HEIC would otherwise seem empty."""
    write(tmp_path, "a.heic", "b.HEIC")
    with pytest.raises(ConfigError, match=r"2 skipped: HEIC pictures, .* e\.g\. .*/a\.heic"):
        listed(str(tmp_path), tmp_path)


# ------------------------------------------------------------------------------- object stores


@pytest.mark.parametrize(
    ("directory", "name", "expected"),
    [
        ("s3://b/p", "a//b.png", "s3://b/p/a//b.png"),
        ("s3://b/p/", "a.png", "s3://b/p//a.png"),
        ("s3://b/", "a.png", "s3://b//a.png"),
        ("s3://b", "a.png", "s3://b/a.png"),
        ("s3://b/p", "../q/b.png", "s3://b/q/b.png"),
        ("s3://b/p", "../../../b.png", "s3://b/b.png"),
        ("s3://b/p", "./a?b#c%20+ d.png", "s3://b/p/a?b#c%20+ d.png"),
        ("s3://b/p", "s3://c/x/../y.png", "s3://c/x/../y.png"),
    ],
)
def test_names_in_a_store_keep_their_characters(directory: str, name: str, expected: str) -> None:
    """Only ``.`` and ``..`` mean something in a relative name."""
    assert resolved(directory, name) == expected


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://b/a#b?c.png", "s3://b/a#b?c.png"),
        ("s3://b/a?versionId=3", "s3://b/a?versionId=3"),
        ("s3://b//a/../b%2F+ .png", "s3://b//a/../b%2F+ .png"),
        ("s3://b/tab\there\n.png", "s3://b/tab\there\n.png"),
        ("s3://b/[half.png", "s3://b/[half.png"),
        ("s3://b/a.png?X-Amz-Signature=1", "s3://b/a.png#"),
        ("s3://b/a#b&sig=1", "s3://b/a#"),
        ("s3://b/a;token=1", "s3://b/a#"),
        ("https://h/a.png?page=2", "https://h/a.png#"),
    ],
)
def test_a_row_is_called_as_its_key_is(uri: str, name: str) -> None:
    """Web addresses have queries, which may be signatures; keys have none, but may look so."""
    found = objects.name_of(uri)
    assert found == name if not name.endswith("#") else found.startswith(name)
    assert len(found) == len(name) + 16 * name.endswith("#")
    assert row_id_of(uri) == (uri if not objects.has_secret(uri) else found)


KEYS = [
    "p/a#b.png",
    "p/a?b.png",
    "p/a?versionId=1.png",
    "p/a%20b.png",
    "p/a b+c.png",
    "p//double.png",
    "p/x/../dots.png",
    "p/scan[1].png",
    "p/scan1.png",
    "p/st*r.png",
    "p/tab\t.png",
    "p/caf\u00e9.png",
    "p/cafe\u0301.png",
    "p/back\\slash&'\"<>.png",
    "/lead.png",
    " p/ a .png ",
    "p/{a,b}.png",
    "p/%2A.png",
    "p/*.png",
    "p/x[1].png",
    "p/x[[]1].png",
    "p/x[*].png",
    "p/x*.png",
]


@pytest.mark.s3
def test_objects_keep_their_names(s3_bucket: str) -> None:
    """In rows, in what is read, and alone among their neighbours."""
    for key in KEYS:
        objects.put(f"{s3_bucket}/{key}", key.encode())
    rows = list(open_input(InputConfig(images=(f"{s3_bucket}",))).rows())
    listed = [key for key in KEYS if not key.endswith(" ")]
    assert [row.row_id for row in rows] == sorted(f"{s3_bucket}/{key}" for key in listed)
    for key in KEYS:
        uri = f"{s3_bucket}/{key}"
        source = open_input(InputConfig(images=(uri,)))
        [row] = source.rows()
        assert row.row_id == row.sources[0] == uri
        fetcher = Fetcher(source.config)
        assert fetcher.read(uri).data == key.encode()
        for other in KEYS:
            if other != key:
                with pytest.raises(FetchError, match="lies outside"):
                    fetcher.read(f"{s3_bucket}/{other}")


@pytest.mark.s3
def test_rows_may_name_what_lies_where_a_job_s_patterns_look(s3_bucket: str) -> None:
    """Where these have wildcards, in their directory; where they are names, there alone."""
    keys = ["a[1]/x.png", "a1/x.png", "a[1]/y[[]1].png", "a[1]/y[1].png", "d//x.png", "d/x.png"]
    for key in [*keys, "top.png", "d.png"]:
        objects.put(f"{s3_bucket}/{key}", b"1")
    for pattern, expected in {
        "a[1]": ["a[1]/x.png", "a[1]/y[[]1].png", "a[1]/y[1].png"],
        "a[1]/*.png": ["a[1]/x.png", "a[1]/y[[]1].png", "a[1]/y[1].png"],
        "a[1]/y[[]1].png": ["a[1]/y[[]1].png"],
        "a[1]/y[1].png": ["a[1]/y[1].png"],
        "a1": ["a1/x.png"],
        "d//": ["d//x.png"],
        "d//*.png": ["d//x.png"],
        "d/*.png": ["d//x.png", "d/x.png"],
        "d": ["d//x.png", "d/x.png"],
        "d/": ["d//x.png", "d/x.png"],
        "top.png": ["top.png"],
    }.items():
        job = open_input(InputConfig(images=(f"{s3_bucket}/{pattern}",))).config
        prefixes = Prefixes(job)
        read = [
            key for key in [*keys, "top.png", "d.png"] if not prefixes.refuse(f"{s3_bucket}/{key}")
        ]
        assert read == sorted(expected, key=keys.index if len(expected) > 1 else None), pattern


@pytest.mark.s3
def test_a_prefix_that_exists_is_that_prefix(s3_bucket: str) -> None:
    """Also where it could be a pattern, and where a slash more is another place."""
    for key in ("a[1]/x.png", "a1/x.png", "*/y.png", "d//z.png", "d/z.png", "d/_t/u.png"):
        objects.put(f"{s3_bucket}/{key}", b"1")

    def keys(pattern: str) -> list[str]:
        job = InputConfig(images=(f"{s3_bucket}/{pattern}",))
        return [row.row_id.removeprefix(f"{s3_bucket}/") for row in open_input(job).rows()]

    assert keys("a[1]") == keys("a[1]/*.png") == ["a[1]/x.png"]
    assert keys("*/*.png") == ["*/y.png"]
    assert keys("d//") == keys("d//*.png") == ["d//z.png"]
    assert keys("d") == ["d//z.png", "d/z.png"]
    assert keys("d/_t/*") == ["d/_t/u.png"]
    assert keys("a?/*.png") == ["a1/x.png"]
    source = open_input(InputConfig(images=(f"{s3_bucket}/a[1]/*.png",)))
    assert list(source.rows())
    [skipped] = source.skipped
    assert (skipped.reason.partition(",")[0], skipped.examples) == (
        OTHERWISE,
        (f"{s3_bucket}/a1/x.png",),
    )


# ------------------------------------------------------------------------ tables of other formats


def write_tables(folder: Path) -> None:
    """Delta, Iceberg and Hudi tables, as far as their names go; and a plain partitioned one."""
    write(
        folder,
        "delta/_delta_log/00000000000000000000.json",
        "delta/part-0.parquet",
        "delta/y=1/m=2/part-1.parquet",
        "ice/metadata/v1.metadata.json",
        "ice/data/y=1/a.parquet",
        "hudi/.hoodie/hoodie.properties",
        "hudi/2024/a.parquet",
        "hive/y=1/a.parquet",
        "hive/y=2/_SUCCESS",
        "hive/_temporary/0/b.parquet",
        "hive/_metadata.parquet",
    )


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("delta", "Delta"),
        ("delta/", "Delta"),
        ("delta/*.parquet", "Delta"),
        ("delta/part-*", "Delta"),
        ("delta/y=1", "Delta"),
        ("delta/y=*/**/*.parquet", "Delta"),
        ("*/*.parquet", "Delta"),
        ("", "Delta"),
        ("ice", "Iceberg"),
        ("ice/data/**", "Iceberg"),
        ("ice/data/y=1/*.parquet", "Iceberg"),
        ("hudi", "Hudi"),
        ("hudi/2024/*", "Hudi"),
    ],
)
def test_a_table_of_another_format_is_no_manifest(pattern: str, name: str, tmp_path: Path) -> None:
    """Its directory also holds what was deleted and replaced."""
    write_tables(tmp_path)
    config = InputConfig.model_validate(
        {"manifest": f"{tmp_path}/{pattern}", "columns": {"image": "image"}}
    )
    with pytest.raises(ConfigError) as caught:
        open_input(config)
    assert f"is a {name} table" in str(caught.value)
    assert "one by one" in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("hive", ["hive/y=1/a.parquet"]),
        ("hive/y=*/*.parquet", ["hive/y=1/a.parquet"]),
        ("delta/part-0.parquet", ["delta/part-0.parquet"]),
        ("hive/_m*.parquet", ["hive/_metadata.parquet"]),
    ],
)
def test_named_files_and_plain_directories_are_manifests(
    pattern: str, expected: list[str], tmp_path: Path
) -> None:
    """Of a table of another format each file that is named; of others what is no leftover."""
    write_tables(tmp_path)
    pattern = f"{tmp_path}/{pattern}"
    found = listing.find([pattern], setting="input.manifest", suffixes=(".parquet",))
    uris = [file.uri for file in found]
    assert uris == [f"{tmp_path}/{name}" for name in expected]
    refuse_tables([pattern], uris)


@pytest.mark.s3
def test_a_table_of_another_format_in_a_store_is_no_manifest(s3_bucket: str) -> None:
    """Nor are its partitions."""
    for key in ("t/_delta_log/0.json", "t/y=1/a.parquet"):
        objects.put(f"{s3_bucket}/{key}", b"1")
    for pattern in ("t", "t/y=1/*.parquet", "**/*.parquet"):
        config = InputConfig.model_validate(
            {"manifest": f"{s3_bucket}/{pattern}", "columns": {"image": "image"}}
        )
        with pytest.raises(ConfigError, match="is a Delta table"):
            open_input(config)
