"""``docs/commands.md``: every command with its options and exit codes, from their parsers.

Use:  python -m tools.render_commands
after a change in ``dsvl_pipeline/cli/``; a test compares.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

from dsvl_pipeline.cli.options import EVERY
from dsvl_pipeline.cli.parser import COMMANDS, EXAMPLES, EXIT_CODES, build_command, command

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
_HEAD = """\
# Every command

`python -m dsvl_pipeline` is the same as `dsvl`. `dsvl COMMAND --help` says what stands here.
[job-file.md](job-file.md) lists the keys of a job file.

Results go to standard output. Progress, notes, warnings and errors go to standard error. With
`--json` the result is one JSON document on one line; a command that fails prints none. Names and
answers never act on a terminal: control characters in them are written out, as `\\x1b`.

Made by `python -m tools.render_commands` from the modules in `dsvl_pipeline/cli/`; change those.
"""


def rendered() -> str:
    """Return the page."""
    bare = argparse.ArgumentParser()
    for add in EVERY:
        add(bare)
    lines = [_HEAD, *_examples(EXAMPLES), *_options(bare._actions), *_exit_codes(EXIT_CODES)]
    common = {name for action in bare._actions for name in action.option_strings}
    for name, told in COMMANDS.items():
        found = command(name)
        lines += [f"## dsvl {name}", "", f"{told[:1].upper()}{told[1:]}.", ""]
        lines += _examples(found.EXAMPLES)
        lines += _notes(found.NOTES)
        own = [one for one in build_command(name)._actions if not common & {*one.option_strings}]
        lines += _options(own)
        lines += _exit_codes(found.EXIT_CODES)
    return "\n".join(lines)


def _examples(text: str) -> list[str]:
    return ["```bash", text, "```", ""]


def _notes(text: str) -> Iterator[str]:
    """Write lines as they are, and what is aligned in columns as a block of its own."""
    for is_aligned, group in groupby(text.splitlines(), key=lambda line: "  " in line):
        lines = list(group)
        yield from ["```text", *lines, "```"] if is_aligned else lines
    yield ""


def _options(actions: Iterable[argparse.Action]) -> list[str]:
    rows = [f"| `{_written(action)}` | {_meaning(action)} |" for action in actions]
    return ["| option | meaning |", "|---|---|", *rows, ""] if rows else []


def _written(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    if not action.option_strings:
        value = f"{value}..." if action.nargs == "*" else value
        return f"[{value}]" if action.nargs in ("?", "*") else value
    return f"{', '.join(action.option_strings)} {value}".rstrip()


def _meaning(action: argparse.Action) -> str:
    told = (action.help or "").replace("|", "\\|")
    if action.choices:
        told += ": " + ", ".join(f"`{one}`" for one in action.choices)
    return f"{told} (required)" if action.required and action.option_strings else told


def _exit_codes(meanings: Mapping[int, str]) -> list[str]:
    rows = [f"| {code} | {told} |" for code, told in meanings.items()]
    return ["| exit code | meaning |", "|---|---|", *rows, ""]


if __name__ == "__main__":
    PAGE.write_text(rendered(), encoding="utf-8")
