"""What broke inside Ray, said in one line."""

from __future__ import annotations

import re

from ray.exceptions import ActorDiedError, RayError, RayTaskError

from dsvl_pipeline import storage
from dsvl_pipeline.errors import DsvlError, RunStoppedError

_RAISED = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b")


def explained(error: RayError) -> DsvlError:
    """The cause of Ray's error: itself if we raised it, else its class and message."""
    cause = _innermost(error)
    if isinstance(cause, DsvlError):
        return cause
    message = _message(cause)
    return RunStoppedError(
        f"Ray could not go on: {message}; what was committed is safe, "
        "run the same command again to go on"
    )


def _innermost(error: BaseException) -> BaseException:
    """What our code raised; Ray wraps it, sometimes more than once."""
    seen = [error]
    while True:
        cause = getattr(seen[-1], "cause", None) or seen[-1].__cause__
        if isinstance(seen[-1], DsvlError) or not isinstance(cause, BaseException):
            return seen[-1]
        if cause in seen:
            return cause
        seen.append(cause)


def _message(cause: BaseException) -> str:
    text = str(cause).strip()
    if isinstance(cause, RayTaskError | ActorDiedError):
        # Its text is the remote traceback, which ends with the error; hints of Ray's may follow.
        raised = [line for line in text.splitlines() if _RAISED.match(line.strip())]
        if raised:
            return storage.redact_text(raised[-1].strip())
    first = text.splitlines()[0] if text else ""
    return storage.redact_text(f"{type(cause).__name__}: {first}".removesuffix(": "))
