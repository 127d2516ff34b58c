"""From an argument list to an exit code: whatever happens, one clear message."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dsvl_pipeline.cli import main, status
from dsvl_pipeline.cli.parser import COMMANDS
from dsvl_pipeline.errors import AccessError, ConfigError, LeaseError, StorageError

Ending = Callable[[BaseException | int], None]


@pytest.fixture
def status_ends(monkeypatch: pytest.MonkeyPatch) -> Ending:
    """Make ``dsvl status`` end as told: with an exit code or an exception."""

    def ends(how: BaseException | int) -> None:
        def execute(*_: object) -> int:
            if isinstance(how, BaseException):
                raise how
            return how

        monkeypatch.setattr(status, "execute", execute)

    monkeypatch.delenv("DSVL_DEBUG", raising=False)
    return ends


@pytest.mark.parametrize("words", ["--help", "--version", "verify --help"])
def test_help_is_quick(words: str) -> None:
    """It must not wait for torch, ray or pyarrow, nor for commands that nobody named."""
    heavy = "torch ray pyarrow numpy pydantic rich yaml transformers fsspec argcomplete click"
    code = (
        "import sys; from dsvl_pipeline.cli.main import main\n"
        f"try: main({words.split()!r})\nexcept SystemExit: pass\n"
        f"commands = [f'dsvl_pipeline.cli.{{x}}' for x in {list(COMMANDS)!r}]\n"
        f"print([x for x in {heavy.split()!r} + commands if x in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    named = [f"dsvl_pipeline.cli.{word}" for word in words.split() if word in COMMANDS]
    assert found.stdout.splitlines()[-1] == str(named)


def test_the_package_is_the_command(tmp_path: Path) -> None:
    """Where the script of that name is not on the path."""
    command = [sys.executable, "-m", "dsvl_pipeline", "status", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("dsvl: wrong: ")


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (ConfigError("job.yaml:3: no such key"), 2, "dsvl: wrong: job.yaml:3: no such key\n"),
        (AccessError("s3://a: no permission"), 2, "dsvl: wrong: s3://a: no permission\n"),
        (StorageError("s3://a: timed out"), 3, "dsvl: stopped: s3://a: timed out\n"),
        (LeaseError("another driver"), 3, "dsvl: stopped: another driver\n"),
        (
            KeyboardInterrupt(),
            3,
            "dsvl: stopped by a signal; what was committed is safe\n",
        ),
    ],
)
def test_an_error_on_purpose_is_one_message_and_its_exit_code(
    status_ends: Ending,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    exit_code: int,
    message: str,
) -> None:
    """No traceback: the message alone must say what to do."""
    status_ends(error)
    assert main.main(["status", "out"]) == exit_code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("by", ["--debug", "DSVL_DEBUG"])
def test_debug_shows_where_it_was_raised(
    status_ends: Ending,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    """The message stays the last line."""
    status_ends(ConfigError("wrong key"))
    if by == "DSVL_DEBUG":
        monkeypatch.setenv(by, "1")
    assert main.main(["status", "out", *([by] if by == "--debug" else [])]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "dsvl: wrong: wrong key"


def test_a_bug_is_not_mistaken_for_failed_rows(
    status_ends: Ending, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python ends with 1 by itself, which here means: done, too many rows failed."""
    status_ends(ZeroDivisionError("oops"))
    assert main.main(["status", "out"]) == 3
    error = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in error
    assert error.endswith("dsvl: stopped: the error above is a bug; please report it\n")


def test_the_exit_code_of_a_command_is_passed_on(status_ends: Ending) -> None:
    """Scripts read it."""
    status_ends(1)
    assert main.main(["status", "out"]) == 1


def test_sigterm_ends_like_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pod that is stopped gets it; the default would end without a word."""
    before = signal.getsignal(signal.SIGTERM)

    def execute(*_: object) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    monkeypatch.setattr(status, "execute", execute)
    assert main.main(["status", "out"]) == 3
    assert capsys.readouterr().err.startswith("dsvl: stopped by a signal")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["run"], "one of the arguments JOB.yaml --config is required"),
        (["run", "a.yaml", "--config", "b.yaml"], "not allowed with argument"),
        (["run", "a.yaml", "--limit", "0"], "found '0', expected a whole number from 1 up"),
        (["run", "a.yaml", "--limit", "many"], "found 'many', expected a whole number"),
        (["generate", "a.jpg"], "the following arguments are required: --prompt"),
        (["export", "out"], "the following arguments are required: DEST"),
    ],
)
def test_wrong_usage_ends_with_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """The same code as a wrong job: nothing was started."""
    with pytest.raises(SystemExit) as ended:
        main.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Its help has examples and exit codes."""
    with pytest.raises(SystemExit) as ended:
        main.main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"dsvl {command} " in text.partition("\nexamples:\n  ")[2]
    assert "\nexit codes:\n  0  " in text


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("plan", "starts one on this machine, as a run does, however few the rows are"),
        ("plan", "of a file that no setting reads why it is skipped"),
        ("vacuum", "(default 168, a week; at least 1, for who reads"),
        ("run", "docs/job-file.md lists every key of a job file"),
        ("run", "a line of JSON at the start, one a minute and one at the end"),
        ("redrive", "Progress and results as of `dsvl run`"),
    ],
)
def test_what_surprises_a_newcomer_stands_in_the_help(
    capsys: pytest.CaptureFixture[str], command: str, told: str
) -> None:
    """What a command starts or refuses, and where what it prints goes."""
    with pytest.raises(SystemExit):
        main.main([command, "--help"])
    assert told in " ".join(capsys.readouterr().out.split())


def test_a_disk_of_this_machine_that_fails_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is spooled goes to the temporary directory, which may be full or closed."""
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")

    def execute(*_: object) -> int:
        with tempfile.TemporaryDirectory(prefix="dsvl-plan-"):
            return 0

    monkeypatch.setattr(status, "execute", execute)
    assert main.main(["status", "out"]) == 3
    said = capsys.readouterr().err
    assert said.startswith("dsvl: stopped: this machine's files: [Errno 2]")
    assert "TMPDIR" in said
    assert "Traceback" not in said
