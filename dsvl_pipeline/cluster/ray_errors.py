"""What broke inside Ray, said in one line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from ray.data.exceptions import SystemException
from ray.exceptions import ActorDiedError, RayError, RayTaskError, UserCodeException

from dsvl_pipeline.errors import ConfigError, DsvlError, RunStoppedError
from dsvl_pipeline.store import objects

_RAISED = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b")
SAFE = "what was committed is safe, and the same command goes on"
_MARKS = (SystemException, UserCodeException)


@contextlib.contextmanager
def explaining() -> Iterator[None]:
    """Let what Ray raises inside come out as one of our errors (`explained`)."""
    try:
        yield
    except RayError as error:
        raise explained(error) from error


@contextlib.contextmanager
def under_way() -> Iterator[None]:
    """Let a mistake of the user's that shows inside, such as a token that expires, stop the run.

    By itself it would say that nothing was started.

    Raises:
        RunStoppedError: There was a `ConfigError`.
    """
    try:
        yield
    except ConfigError as error:
        raise RunStoppedError(f"{error}; {SAFE}") from error


def explained(error: RayError) -> DsvlError:
    """Return the cause of Ray's error: itself if we raised it, else its class and message."""
    cause = _innermost(error)
    if isinstance(cause, DsvlError):
        return cause
    message = _message(cause)
    return RunStoppedError(f"Ray could not go on: {message}; {SAFE}")


def _innermost(error: BaseException) -> BaseException:
    """Return what our code raised; Ray wraps it, sometimes more than once."""
    while not isinstance(error, DsvlError):
        cause = getattr(error, "cause", None) or error.__cause__
        # Ray Data marks with these two whose mistake it was; they say nothing themselves.
        if not isinstance(cause, BaseException) or isinstance(cause, _MARKS):
            break
        error = cause
    return error


def _message(cause: BaseException) -> str:
    text = str(cause).strip()
    if isinstance(cause, RayTaskError | ActorDiedError):
        # Its text is the remote traceback, which ends with the error; hints of Ray's may follow.
        raised = [line for line in text.splitlines() if _RAISED.match(line.strip())]
        if raised:
            name, colon, said = raised[-1].strip().partition(":")
            return objects.redact_text(name.rpartition(".")[2] + colon + said)
    first = text.splitlines()[0] if text else ""
    return objects.redact_text(f"{type(cause).__name__}: {first}".removesuffix(": "))
