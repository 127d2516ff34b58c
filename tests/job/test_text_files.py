"""Files that are no job files, named as one: a sentence, at once, and exit code 2."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsvl_pipeline.cli.main import main
from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.reading import load_job

GOOD = """\
name: j
input: {images: "x/*.jpg"}
prompts: [{id: a, text: é}]
model: {checkpoint: demo}
output: {uri: out}
"""


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def _holding(data: bytes | str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data if isinstance(data, bytes) else data.encode())


NOT_JOBS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "it is a pipe, expected a regular file"),
    "directory": (Path.mkdir, "it is a directory, expected a regular file"),
    "endless": (lambda path: path.symlink_to("/dev/zero"), "it is a device, expected"),
    "empty-device": (lambda path: path.symlink_to("/dev/null"), "it is a device, expected"),
    "loop": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    "huge": (_huge, "it holds 1,073,741,824 bytes, more than the limit of 4,194,304"),
    "utf-16": (_holding(GOOD.encode("utf-16")), "it is UTF-16 or UTF-32, expected UTF-8"),
    "utf-16-unmarked": (_holding("name: j".encode("utf-16-le")), "unacceptable character #x0000"),
    "utf-32": (_holding(GOOD.encode("utf-32")), "it is UTF-16 or UTF-32, expected UTF-8"),
    "latin-1": (_holding(GOOD.encode("latin-1")), "it is not UTF-8 text (byte 0xe9 at 59)"),
    "binary": (_holding(bytes(range(256))), "it is not UTF-8 text (byte 0x80 at 128)"),
    "nul": (_holding(GOOD.replace("x/", "x\0/")), "unacceptable character #x0000"),
    "escaped-nul": (_holding(GOOD.replace("x/", "x\\0/")), "input.images: holds a NUL character"),
    "deep-lists": (_holding("[" * 1000), "nested too deeply"),
    "deep-maps": (_holding("{a: " * 1000 + "}" * 1000), "nested too deeply"),
    "deep-blocks": (_holding("\n".join(" " * i + "a:" for i in range(1000))), "nested too deeply"),
    "deep-json": (_holding('{"a":' * 9000 + "1" + "}" * 9000), "nested too deeply"),
    "bad-date": (_holding("name: 2024-99-99"), "a value cannot be read: month must be in 1..12"),
    "bad-number": (_holding("name: !!float abc"), "a value cannot be read: could not convert"),
    "many-digits": (_holding("name: " + "9" * 5000), "a value cannot be read: Exceeds the limit"),
    "many-hex-digits": (_holding("name: 0x" + "f" * 9000), "name: found a int that cannot be"),
    "date-keys": (_holding("input: {2024-01-01: {1: 2}}"), "Keys should be strings"),
    "list-key": (_holding("{? [a] : b}"), "found unhashable key"),
    "code": (
        _holding("a: !!python/object/apply:os.system [id]"),
        "could not determine a construct",
    ),
    "half-a-pair": (_holding('name: "\\uD800"'), "unable to parse raw data as a unicode string"),
}


@pytest.fixture(autouse=True)
def _no_collection_in_the_depth(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where nothing more can be called, what others have left cannot be closed either."""
    if "deep" not in request.node.name:
        yield
        return
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("kind", NOT_JOBS)
def test_what_is_no_job_file_is_refused_in_a_sentence(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not waited for, not read to its end, and not taken for a bug."""
    make, message = NOT_JOBS[kind]
    make(tmp_path / "job.yaml")
    assert main(["plan", str(tmp_path / "job.yaml")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dsvl: wrong: ")
    assert message in said


COMMANDS = ["run", "plan", "doctor", "redrive --row x", "submit --target ray --dry-run"]
COMMANDS += ["submit --target k8s --dry-run", "schedule --cron @daily"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["pipe", "huge", "deep-lists"])
def test_every_command_reads_a_job_file_so(
    command: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a submission takes may be a rendered manifest too, which is looked at before."""
    NOT_JOBS[kind][0](tmp_path / "job.yaml")
    name, *options = command.split()
    assert main([name, str(tmp_path / "job.yaml"), *options]) == 2
    assert NOT_JOBS[kind][1] in capsys.readouterr().err


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    """Some editors write one."""
    (tmp_path / "job.yaml").write_text(GOOD, encoding="utf-8-sig")
    assert load_job(tmp_path / "job.yaml").name == "j"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("name=" + "[" * 1000, "the value is nested too deeply"),
        ("name=2024-99-99", "month must be in 1..12"),
        ("name=" + "9" * 5000, "Exceeds the limit"),
        ('output.uri="a\\0b"', r"output.uri: holds a NUL character"),
        ("input.images=[a, '\udcff']", "unacceptable character"),
        ("input={2024-01-01: b}", "Keys should be strings"),
        ("name=*x", "aliases are not allowed"),
        ("name={? [a] : b}", "found unhashable key"),
    ],
)
def test_a_setting_of_the_command_line_is_refused_likewise(
    tmp_path: Path, value: str, message: str
) -> None:
    """And its own text is shown in part, where it is long."""
    (tmp_path / "job.yaml").write_text(GOOD, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_job(tmp_path / "job.yaml", [value])
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("kind", ["pipe", "endless", "huge", "directory", "deep-json"])
def test_a_schema_file_is_read_with_the_same_care(tmp_path: Path, kind: str) -> None:
    """It is named in the job file, and may be as wrong."""
    NOT_JOBS[kind][0](tmp_path / "schema.json")
    (tmp_path / "job.yaml").write_text(GOOD, encoding="utf-8")
    setting = f"prompts.0.schema={tmp_path / 'schema.json'}"
    with pytest.raises(ConfigError, match=r"prompts\.0\.schema") as caught:
        load_job(tmp_path / "job.yaml", [setting])
    assert NOT_JOBS[kind][1] in str(caught.value)


def test_an_empty_name_is_no_job_file(capsys: pytest.CaptureFixture[str]) -> None:
    """A shell gives one for a variable that is not set."""
    assert main(["plan", ""]) == 2
    assert "job file . cannot be read: it is a directory" in capsys.readouterr().err
