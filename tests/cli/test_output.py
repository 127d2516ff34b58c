"""What reaches a terminal: everything that is to be said, and nothing that acts on it."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import pty
import subprocess
import sys
from contextlib import suppress
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from dsvl_pipeline.cli import main as main_module
from dsvl_pipeline.cli import output
from dsvl_pipeline.cli.main import main
from dsvl_pipeline.cli.output import Output, SafeStream, exact_yaml, safe_streams
from dsvl_pipeline.cli.parser import COMMANDS
from dsvl_pipeline.cli.text import columns, one_line, printable
from tests.tables import write_table

ESCAPES = {
    "clear": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://evil.example/\x07click\x1b]8;;\x07",
    "clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "c1-csi": "\x9b2J",
    "c1-osc": "\x9d52;c;aGk=\x9c",
    "overwrite": "safe\rEVIL",
    "backspace": "safe\x08\x08\x08\x08evil",
    "delete": "\x7f",
    "bell": "\a\v\f",
    "next-line": "\x85",
    "override": "\u202egpj.exe",
    "isolate": "\u2066\u2067\u2069",
    "marks": "\u200e\u200f\u061c",
    "line-ends": "\u2028\u2029",
    "unseen": "\ufeff\u200b\u2060\U000e0041",
    "charset": "\x0e\x1b(0",
}
HOSTILE = "".join(ESCAPES.values())
JOB = """\
name: hostile
input: {{images: {folder}/*.jpg}}
prompts: [{{id: a, text: "\\e[2J\\x9b2J \\u202e \\u2028 é 多"}}]
model: {{checkpoint: demo}}
engine: {{kind: fake}}
output: {{uri: {out}}}
"""


def acting(text: str) -> list[str]:
    """Give what a terminal would obey, or hide."""
    joiners = "\n\t\u200c\u200d\u00ad\u00a0\u3000"
    return [c for c in text if not c.isprintable() and c not in joiners]


@pytest.mark.parametrize("kind", ESCAPES)
def test_what_would_act_is_written_out(kind: str) -> None:
    """As Python would write it, so that one sees what was tried."""
    shown = printable(f"a{ESCAPES[kind]}b")
    assert acting(shown) == []
    assert "\\" in shown


@pytest.mark.parametrize(
    "text",
    [
        "plain\n\tlines",
        "naïve 多\u3000字",
        "👩\u200d👩\u200d👧 ❤\ufe0f",
        "می\u200cخواهم",
        "a\u00a0b",
    ],
)
def test_what_is_only_seen_stays(text: str) -> None:
    """Scripts and emoji need joiners, and pages hold blanks of many widths."""
    assert printable(text) == text


def test_colours_are_left_out() -> None:
    """Ray marks its workers' lines by them; written out they would hide the line."""
    assert printable("\x1b[36m(pid=1)\x1b[0m said") == "(pid=1) said"


def test_a_name_stays_on_its_line() -> None:
    """A row id could else write rows of a table of its own."""
    assert one_line("a\nok  1,000\tx") == "a\\nok  1,000\\tx"
    assert columns([("id", "n"), ("a\nb\x1b", "1")]) == ["id        n", "a\\nb\\x1b  1"]


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A table whose every text is hostile."""
    texts = ["row_id", "text", "prompt_id", "error_code", "error_message", "finish_reason"]
    texts += ["node", "device", "model", "run_id", "code_version", "carried"]
    row = dict.fromkeys(texts, f"a\nb {HOSTILE}") | {"source_uris": [f"file:///{HOSTILE}"]}
    rows = [row | {"row_id": "plain"}, row | {"status": "error"}]
    rows.append(row | {"row_id": "cut", "status": "degraded", "error_code": None})
    write_table(str(tmp_path / "table"), rows, pa.schema([("carried", pa.string())]))
    (tmp_path / "job.yaml").write_text(
        JOB.format(folder=tmp_path, out=tmp_path / "table"), encoding="utf-8"
    )
    return str(tmp_path / "table")


# Of each command: what it shows of a hostile table, and what it says of a hostile command line.
LINES = [
    "status TABLE",
    "status HOSTILE",
    "failures TABLE",
    "failures TABLE --code HOSTILE",
    "failures TABLE --stage HOSTILE",
    "verify TABLE",
    "verify HOSTILE",
    "versions TABLE",
    "versions HOSTILE",
    "lineage TABLE plain",
    "lineage TABLE ROW",
    "lineage TABLE HOSTILE",
    "lineage TABLE plain --prompt HOSTILE",
    "export TABLE HOSTILE",
    "export TABLE FOLDER/HOSTILE.csv",
    "report TABLE FOLDER/HOSTILE.html",
    "report TABLE HOSTILE",
    "repair TABLE",
    "repair HOSTILE",
    "compact TABLE",
    "compact HOSTILE",
    "vacuum TABLE --dry-run",
    "vacuum HOSTILE",
    "generate HOSTILE --prompt x",
    "generate --prompt x --checkpoint HOSTILE",
    "plan HOSTILE",
    "plan JOB --set HOSTILE=1",
    "plan JOB --set name=HOSTILE",
    "plan JOB --explain HOSTILE --set model.checkpoint=HOSTILE",
    "run JOB --set generation.HOSTILE=HOSTILE",
    "run JOB --set model.checkpoint=HOSTILE --debug",
    "redrive JOB --row HOSTILE --set HOSTILE",
    "submit JOB --target ray --dry-run",
    "submit JOB --target HOSTILE",
    "submit JOB --target k8s --dry-run --set output.uri=HOSTILE",
    "schedule JOB --cron HOSTILE",
    "schedule JOB --cron @hourly --set output.uri=s3://bucket/x",
    "doctor HOSTILE",
    "doctor JOB",
    "completion HOSTILE",
    "init FOLDER/HOSTILE",
    "schema HOSTILE",
    "HOSTILE",
    "status TABLE --HOSTILE",
]


@pytest.mark.parametrize("line", LINES)
def test_no_command_lets_data_act_on_a_terminal(
    line: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows, names and answers are strangers'; so is what a script pastes into a command line."""
    names = {
        "TABLE": table,
        "JOB": str(tmp_path / "job.yaml"),
        "FOLDER": str(tmp_path),
        "ROW": f"a\nb {HOSTILE}",
        "HOSTILE": HOSTILE.replace("/", ""),
    }
    words = line.split()
    for name, value in names.items():
        words = [word.replace(name, value) for word in words]
    try:
        code = main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    shown = capsys.readouterr()
    assert code in (0, 1, 2)
    assert shown.out + shown.err
    assert acting(shown.out + shown.err) == []


def test_every_command_meets_hostile_data() -> None:
    """A new one belongs into the list above."""
    assert set(COMMANDS) <= {line.split()[0] for line in LINES}


def test_nothing_in_the_commands_goes_past_the_streams() -> None:
    """One who writes to a file descriptor, or to Python's own streams, would not be seen above."""
    for path in Path(main_module.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            assert name not in ("sys.__stdout__", "sys.__stderr__", "os.writev"), path
            assert not (name.endswith(".buffer") or name == "stream.raw") or path.stem == "output"


def test_log_lines_and_tracebacks_are_written_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What libraries say of a file holds its name."""
    with safe_streams():
        logging.lastResort.handle(logging.makeLogRecord({"msg": HOSTILE, "levelno": 50}))  # type: ignore[union-attr]
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    shown = capsys.readouterr().err
    assert shown.count("owned") >= 2
    assert acting(shown) == []


def test_an_answer_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Text of a page is text of many lines."""
    with safe_streams():
        sys.stdout.write("one\n\ttwo\n")
    assert capsys.readouterr().out == "one\n\ttwo\n"


def test_a_result_is_lines_or_json_and_a_note_is_neither(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What JSON has no word for is written as text, and NaN as null; all of it in ASCII."""
    value = {
        "a": float("nan"),
        "b": b"\x01\xff",
        "c": date(2026, 1, 2),
        "d": "é\x1b",
    }
    for is_json, is_quiet in ((False, False), (True, True)):
        shown = Output(is_json=is_json, is_quiet=is_quiet)
        shown.result(value, (line for line in ("one", "two")))
        shown.note("by the way")
    out, err = capsys.readouterr()
    *lines, document = out.splitlines()
    assert (lines, err) == (["one", "two"], "by the way\n")
    assert document.isascii()
    assert json.loads(document) == {
        "a": None,
        "b": "01ff",
        "c": "2026-01-02",
        "d": "é\x1b",
    }


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_yaml_on_its_way_out_means_the_same(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written to be submitted: what cannot be shown is escaped by YAML itself."""
    values = {"prompt": HOSTILE, "plain": "é 多\nlines\n"}
    text = yaml.safe_dump(values, allow_unicode=True)
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with safe_streams():
        sys.stdout.write(exact_yaml(text) + "\n---\n")
        sys.stdout.write(exact_yaml("a: b # as it is\n"))
    stream.flush()
    written = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert acting(written) == []
    assert list(yaml.safe_load_all(written)) == [values, {"a": "b"}]
    assert "# as it is" in written


# ------------------------------------------------------------------ streams that are lost


def dsvl(line: str, **variables: str) -> tuple[int, str]:
    """Run a command in a shell that redirects its streams; give its code and errors."""
    environment = os.environ | {"PYTHONPATH": os.getcwd(), **variables}
    command = line.replace("dsvl", f"{sys.executable} -m dsvl_pipeline", 1)
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        env=environment,
        capture_output=True,
        timeout=900,
    )
    return done.returncode, done.stderr.decode()


FULL = "dsvl: stopped: standard output could not be written: No space left on device\n"
CLOSED = "dsvl: stopped: standard output could not be written: it is closed\n"


def test_a_lost_stream_ends_in_a_sentence(table: str) -> None:
    """Whose reader has seen enough has lost nothing; whose disk is full has.

    In one test, for each line starts processes.
    """
    ends = {
        f"dsvl status {table} >/dev/full": (3, FULL),
        f"dsvl status {table} >&-": (3, CLOSED),
        "dsvl --help >/dev/full": (3, FULL),
        f"dsvl status {table} <&- >&- 2>&-": (3, ""),
        f"dsvl status {table} 2>/dev/full | grep -q degraded": (0, ""),
        f"dsvl status {table} | true": (0, ""),
        "dsvl status --help | true": (0, ""),
        "dsvl plan /nonexistent.yaml >&- 2>&-": (2, ""),
    }
    assert {line: dsvl(line) for line in ends} == ends


def test_a_check_that_fails_says_so_to_who_reads_no_more(table: str) -> None:
    """`dsvl verify | head` in a script would pass for sound: how it ends is not what is read."""
    (part,) = Path(table, "data").rglob("*.parquet")
    part.chmod(0o644)
    part.write_bytes(part.read_bytes()[::-1])
    assert dsvl(f"dsvl verify {table} | true")[0] == 1


def test_a_closed_stream_is_not_taken_by_a_file(table: str, tmp_path: Path) -> None:
    """Else the first file that is opened becomes standard output, and children print into it."""
    code = "import os; from dsvl_pipeline.cli.output import safe_streams\nwith safe_streams():\n"
    code += f"    file = open({str(tmp_path / 'part')!r}, 'w'); assert file.fileno() > 2\n"
    code += "    os.system('echo child; echo child >&2')\n"
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "$CODE" <&- >&- 2>&-'],
        env=os.environ | {"CODE": code, "PYTHONPATH": os.getcwd()},
        timeout=300,
    )
    assert done.returncode == 0
    assert (tmp_path / "part").read_text() == ""


def in_ascii(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """Make standard output one that has no other letters, and fails at them."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    return written


@pytest.mark.parametrize(
    "line", [line for line in LINES if line.endswith(("TABLE", "plain", "JOB"))]
)
def test_ascii_terminals_get_ascii(
    line: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they cannot show is written out, never a UnicodeEncodeError."""
    written = in_ascii(monkeypatch)
    assert main(line.replace("TABLE", table).replace("JOB", str(tmp_path / "job.yaml")).split()) < 2
    assert written.getvalue().isascii()
    assert written.getvalue()


def test_a_locale_without_utf_8_is_no_bug(table: str) -> None:
    """Python takes file names for ASCII there; a name that is not is one that no file has."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code, errors = dsvl(
        f"dsvl lineage {table} plain >/dev/null", PYTHONIOENCODING="ascii", **ascii_only
    )
    assert (code, errors) == (0, "")


def test_on_a_terminal_a_live_line_moves_the_cursor_and_data_does_not(tmp_path: Path) -> None:
    """The bar's own escapes are meant; what is printed beside it is written out."""
    code = (
        "import sys; from dsvl_pipeline.cli import output, progress\n"
        "with output.safe_streams(), progress.display(output.Output()) as show:\n"
        f"    print({HOSTILE!r}, file=sys.stderr)\n"
    )
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "TERM": "xterm"}
    subprocess.run(
        [sys.executable, "-c", code], stderr=theirs, env=environment, check=True, timeout=300
    )
    os.close(theirs)
    data = b""
    with suppress(OSError):  # Linux says so when the other end is closed
        while chunk := os.read(ours, 1 << 20):
            data += chunk
    os.close(ours)
    shown = "".join(data.decode().split("\r\n"))  # lines are as wide as the terminal
    assert "\x1b[" in shown
    assert "\\x1b]52" in shown
    assert not any(
        bad in shown for bad in ("\x1b]", "\x9b", "\x9d", "\u202e", "\x07", "\x08", "\x1b[2J")
    )


def test_a_stream_that_fails_keeps_quiet_afterwards() -> None:
    """Python flushes once more when it ends, and would end with code 120."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    stream = SafeStream(Full())
    assert stream.write("x") == 1
    stream.flush()
    assert stream.error is not None
    assert stream.error.errno == 28
    assert output.raw(stream) is stream.raw  # type: ignore[arg-type]
