"""What a command prints: results, notes, and nothing that acts on a terminal.

Names, answers and messages hold what strangers wrote: escape sequences, line ends that overwrite,
marks that turn the order of letters. Whatever this process prints (results, errors, tracebacks,
warnings, log lines, Ray's relayed lines) goes through `SafeStream`, so no place has to remember it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, TextIO, cast

from dsvl_pipeline.cli.text import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where a command's words go: results to standard output, all else to standard error.

    Attributes:
        is_json: Whether the result is one line of JSON, and nothing else.
        is_quiet: Whether progress and notes are left out. Results, warnings and errors never are.
        stdout: Standard output.
    """

    is_json: bool = False
    is_quiet: bool = False
    stdout: TextIO = field(default_factory=lambda: sys.stdout)

    def text(self, lines: str | Iterable[str]) -> None:
        """Print lines of the result for people; with JSON they are not even asked for."""
        if self.is_json:
            return
        for line in (lines,) if isinstance(lines, str) else lines:
            print(line, file=self.stdout)
        self.stdout.flush()

    def result(self, value: object, lines: str | Iterable[str]) -> None:
        """Print the whole result: a value as JSON, or else lines for people.

        Args:
            value: Of plain types, dataclasses, bytes (written as hex), times and URIs. What JSON
                has no number for becomes null.
            lines: See `text`.
        """
        self.text(lines)
        if self.is_json:
            import json

            # Twice, for JSON has no NaN. In ASCII, so that nothing has to be written out.
            plain = json.loads(json.dumps(value, default=_plain), parse_constant=lambda _: None)
            print(json.dumps(plain), file=self.stdout, flush=True)

    def note(self, text: str) -> None:
        """Print to standard error what helps, but is neither result nor error."""
        if not self.is_quiet:
            print(text, file=sys.stderr, flush=True)

    def outcome(self, code: int) -> int:
        """Return a command's exit code; 3 where it went well, but its output is lost."""
        self.stdout.flush()
        error = self.stdout.error if isinstance(self.stdout, SafeStream) else None
        if error is None:
            return code
        why = error.strerror or str(error)
        print(f"dsvl: stopped: standard output could not be written: {why}", file=sys.stderr)
        return code or 3


def _plain(value: Any) -> object:
    """Return what JSON can hold instead of a value."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def exact_yaml(text: str) -> str:
    """Keep YAML, which is written to be read again, from being changed on its way out.

    Where the terminal would be shown other characters than these, all but ASCII is escaped by YAML
    itself, which means the same.

    Returns:
        The text without its last line end.
    """
    encoding = sys.stdout.encoding or "utf-8"
    if printable(text).encode(encoding, "backslashreplace").decode(encoding) != text:
        import yaml

        text = str(yaml.safe_dump_all(yaml.safe_load_all(text), sort_keys=False, width=100))
    return text.removesuffix("\n")


class SafeStream:
    """A text stream that shows everything, and lets nothing act on the terminal behind it.

    What the stream's encoding cannot say is written out too. Writing never fails: once the stream
    is lost the rest goes nowhere, for how a command ends must not hang on who reads along.

    Attributes:
        error: Why something was not written; None also if the reader (head, less) has seen enough.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.error: OSError | None = None
        self._is_closed = stream is None
        self.raw: TextIO = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115

    def write(self, text: str) -> int:
        if self._is_closed and text:
            self.error = OSError(errno.EBADF, "it is closed")
        encoding = self.raw.encoding or "utf-8"
        shown = printable(text).encode(encoding, "backslashreplace").decode(encoding)
        self._try(lambda: self.raw.write(shown))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def isatty(self) -> bool:
        """Return False: nothing here moves a cursor or has a colour."""
        return False

    def flush(self) -> None:
        self._try(self.raw.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def _try(self, do: Callable[[], object]) -> None:
        try:
            do()
        except BrokenPipeError:
            self._drop()
        except OSError as error:
            self.error = error
            self._drop()

    def _drop(self) -> None:
        """Let what is buffered, and all that follows, go nowhere."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.raw.fileno())
            os.close(nowhere)


@contextmanager
def safe_streams(*, is_kept: bool = False) -> Iterator[None]:
    """Put a `SafeStream` before standard output and standard error.

    Args:
        is_kept: Whether they stay there, since what ends with the process prints as well.
    """
    before = sys.stdout, sys.stderr
    _open_missing()
    sys.stdout, sys.stderr = (cast("TextIO", SafeStream(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if not is_kept:
            sys.stdout, sys.stderr = before


def raw(stream: TextIO) -> TextIO:
    """Return what lies behind a stream, for who moves the cursor on purpose."""
    return stream.raw if isinstance(stream, SafeStream) else stream


def _open_missing() -> None:
    """Let no file take the place of a standard stream that was closed: children write there."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):  # the lowest free number is this one
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
