"""What stands between everything that is printed and the terminal it may reach.

Names, answers and messages hold what strangers wrote: escape sequences, line ends that overwrite,
marks that turn the order of letters. Whatever this process prints (results, errors, tracebacks,
warnings, log lines, Ray's relayed lines) goes through `SafeStream`, so no place has to remember it.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

# Colours alone do no harm, and Ray marks the lines of its workers by them.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ACTING = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls of ASCII and of Latin-1, save tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # which way letters run
    "\u200b\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # unseen
    "\ud800-\udfff"  # bytes of a file name that are no UTF-8
    "]"
)


def printable(text: str) -> str:
    r"""Write out what would act on a terminal, or not be seen: ``\x1b``, ``\u202e``.

    Tabs and line feeds stay, and so do the joiners that emoji and some scripts are written with.
    """
    return _ACTING.sub(_written_out, _COLOUR.sub("", text))


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


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
        """Tell who asks that nothing here moves a cursor or has a colour."""
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


def is_shown_as_it_is(text: str) -> bool:
    """Tell whether standard output gets the very characters of a text."""
    encoding = sys.stdout.encoding or "utf-8"
    return printable(text).encode(encoding, "backslashreplace").decode(encoding) == text


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


def outcome(code: int) -> int:
    """Give a command's exit code; 3 where it went well, but its output is lost."""
    sys.stdout.flush()
    error = sys.stdout.error if isinstance(sys.stdout, SafeStream) else None
    if error is None:
        return code
    why = error.strerror or str(error)
    print(f"dsvl: stopped: standard output could not be written: {why}", file=sys.stderr)
    return code or 3


def raw(stream: TextIO) -> TextIO:
    """Give what lies behind a stream, for who moves the cursor on purpose."""
    return stream.raw if isinstance(stream, SafeStream) else stream


def _open_missing() -> None:
    """Let no file take the place of a standard stream that was closed: children write there."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):  # the lowest free number is this one
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
