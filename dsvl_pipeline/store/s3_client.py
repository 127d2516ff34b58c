"""How S3 is asked: one client for each process, bounded retries, and errors in our words.

s3fs and botocore each have retries of their own, which multiply to 25 tries and 40 seconds. Both
are switched off here, so that one loop decides, and the store's answer is seen as it was given.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, TypeVar

from aiobotocore.session import AioSession  # type: ignore[import-untyped]
from botocore import exceptions as boto  # type: ignore[import-untyped]
from fsspec.asyn import sync
from s3fs import S3FileSystem

from dsvl_pipeline.errors import AccessError, NotFoundError, StorageError
from dsvl_pipeline.store.redact import redact, redact_text

MAX_ATTEMPTS = 8
FIRST_DELAY_S = 0.25
"""Doubled for each further attempt; the wait is a random part of it: 12 s in all, on average."""
MAX_DELAY_S = 8.0
ATTEMPT_TIMEOUT_S = 300.0
"""A server that trickles a byte now and then satisfies every shorter limit."""

# In transit something was damaged, or the store is busy; some of these arrive as 400 or 403.
_RETRYABLE_CODES = frozenset(
    [
        "BadDigest",
        "IncompleteBody",
        "InternalError",
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "XAmzContentSHA256Mismatch",
    ]
)
_NOT_RETRYABLE = (
    boto.ParamValidationError,
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.ProfileNotFound,
    boto.InvalidConfigError,
    ValueError,
    TypeError,
)
_ACCESS_HELP = (
    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (or the profile or role), "
    "AWS_ENDPOINT_URL, AWS_REGION and the bucket's name"
)

T = TypeVar("T")


def _filesystem() -> Any:
    """Return this process's client for the environment as it is now."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    endpoint = settings.get("AWS_ENDPOINT_URL", "")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise AccessError(
            f"AWS_ENDPOINT_URL is {redact(endpoint)!r}; it must start with http:// or https://"
        )
    return _connected(os.getpid(), tuple(sorted(settings.items())))


# A forked child must not use its parent's event loop and sockets, hence the process id.
@lru_cache(maxsize=8)
def _connected(process_id: int, settings: tuple[tuple[str, str], ...]) -> Any:
    session = AioSession()
    session.register("request-created.s3.PutObject", _send_at_once)
    s3 = S3FileSystem(
        session=session,
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "connect_timeout": 5,
            "read_timeout": 30,
            "max_pool_connections": 64,
            # Older Ceph and others refuse the checksums that newer clients add by themselves.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
    )
    s3.retries = 1
    return s3


def _send_at_once(request: Any, **_: Any) -> None:
    """Send a body as bytes, and without asking whether it is welcome.

    Botocore makes a file of each body, and asks first (``Expect: 100-continue``), which costs a
    round trip. Where a connection is lost, aiohttp before 3.14 sends the rest of that file again:
    nothing, so that client and store wait for one another for 30 s.
    """
    del request.headers["Expect"]
    body = request.data
    request.data = body.read()
    body.seek(0)  # a store of another region sends us on, and the request is made again


def call(action: str, uri: str, operation: Callable[[Any], Awaitable[T]]) -> T:
    """Ask the store, again and again where it does not answer or is busy.

    Args:
        action: For messages.
        uri: Likewise.
        operation: Gets s3fs's client; safe to repeat.

    Raises:
        StorageError: It said no (see `_explain`), or nothing that counts in `MAX_ATTEMPTS`.
    """
    error: Exception
    for attempt in range(MAX_ATTEMPTS):
        if attempt:
            longest_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** (attempt - 1))
            time.sleep(longest_s * random.random())
        try:
            s3 = _filesystem()
            result: T = sync(s3.loop, operation, s3, timeout=ATTEMPT_TIMEOUT_S)
            return result
        except StorageError:
            raise
        except Exception as caught:
            if not _is_retryable(caught):
                raise _explain(action, uri, caught) from caught
            error = caught
    message = (
        f"{action} {uri}: gave up after {MAX_ATTEMPTS} attempts, the last one with "
        f"{type(error).__name__}: {error}; the store is overloaded, or AWS_ENDPOINT_URL "
        f"({os.environ.get('AWS_ENDPOINT_URL', 'not set')}) cannot be reached from here"
    )
    raise StorageError(redact_text(message)) from error


def answer_of(error: BaseException) -> tuple[int, str]:
    """Read status and code of the store's answer; ``(0, "")`` when there was none."""
    # s3fs translates what botocore raises and keeps the original as the cause.
    cause = error if isinstance(error, boto.ClientError) else error.__cause__
    if not isinstance(cause, boto.ClientError):
        return 0, ""
    status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status, cause.response.get("Error", {}).get("Code", "")


def _is_retryable(error: Exception) -> bool:
    status, code = answer_of(error)
    if status:
        # 501: the store does not know what it was asked for, and will not learn it.
        return (
            code in _RETRYABLE_CODES
            or status in (408, 409, 429)
            or (status >= 500 and status != 501)
        )
    return not isinstance(error, _NOT_RETRYABLE)


def _explain(action: str, uri: str, error: Exception) -> StorageError:
    status, code = answer_of(error)
    uri = redact(uri)
    detail = redact_text(f"{action} {uri}: {code or type(error).__name__} ({error})")
    if code == "NoSuchBucket":
        return AccessError(f"{action} {uri}: there is no such bucket; {_ACCESS_HELP}")
    if status == 404:
        return NotFoundError(f"{action} {uri}: there is no such object")
    if status == 412:
        return StorageError(f"{action} {uri}: it was replaced while it was read; start again")
    if status in (301, 307, 401, 403) or code in ("ExpiredToken", "InvalidToken"):
        return AccessError(f"{detail}; {_ACCESS_HELP}")
    if not status and isinstance(error, _NOT_RETRYABLE):
        return AccessError(f"{detail}; {_ACCESS_HELP}")
    return StorageError(detail)
