"""``dsvl completion``: what a shell offers when TAB is pressed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dsvl_pipeline.cli.main import main
from dsvl_pipeline.cli.parser import COMMANDS, build_command

# Bash fills these two before it calls a command's function.
ASK = """\
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
$(complete -p dsvl | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
printf '%s\n' "${COMPREPLY[@]}"
"""


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Give the script that a shell reads."""
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["st"], "status"),
        (["re"], "redrive repair report"),
        (["--v"], "--version"),
        (["run", "--li"], "--limit"),
        (["verify", "out", "--"], "--help --json --quiet --debug"),
        (["submit", "job.yaml", "--target", ""], "ray k8s"),
        (["failures", "out", "--stage", "f"], "fetch"),
        (["completion", ""], "bash zsh fish"),
        (["run", ""], ""),  # a file: bash's own part
        (["fly", "--"], ""),
    ],
)
def test_bash_completes(
    words: list[str], offered: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands, options, and values where there are few; a real bash is asked."""
    (tmp_path / "dsvl").write_text(script("bash", capsys), encoding="utf-8")
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK, "bash", str(tmp_path / "dsvl"), "dsvl", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout.split(), done.stderr) == (offered.split(), "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_names_every_command_and_option(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As each command's parser knows them, whatever the shell calls them."""
    lines = script(shell, capsys).splitlines()
    for name in COMMANDS:
        of_name = " ".join(line for line in lines if name in line) + " "
        for action in build_command(name)._actions:
            for one in action.option_strings:
                kind = "-l" if one.startswith("--") else "-s"
                wanted = f" {kind} {one.lstrip('-')} " if shell == "fish" else one
                assert wanted in of_name
