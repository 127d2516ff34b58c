"""Objects in S3 and in what speaks its language, through s3fs, with bounded retries.

s3fs and botocore each have retries of their own, which multiply to 25 tries and 40 seconds. Both
are switched off here, so that one loop decides, and the store's answer is seen as it was given.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import lru_cache
from io import BytesIO
from typing import Any, TypeVar

from aiobotocore.session import AioSession  # type: ignore[import-untyped]
from botocore import exceptions as boto  # type: ignore[import-untyped]
from fsspec.asyn import sync
from s3fs import S3FileSystem

from dsvl_pipeline.errors import (
    AccessError,
    ConfigError,
    NotFoundError,
    StorageError,
    TooLargeError,
)
from dsvl_pipeline.store.backend import ObjectInfo
from dsvl_pipeline.store.redact import redact, redact_text

MAX_ATTEMPTS = 8
FIRST_DELAY_S = 0.25
"""Doubled for each further attempt; the wait is a random part of it: 12 s in all, on average."""
MAX_DELAY_S = 8.0
LIST_PAGE_SIZE = 1000
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

_MD5 = re.compile(r"[0-9a-f]{32}")

T = TypeVar("T")


class S3Store:
    """``s3://bucket/key`` URIs. Keys are taken as they stand: nothing is percent-decoded."""

    def __init__(self) -> None:
        self._buckets_without_md5: set[str] = set()

    def read(self, uri: str, max_bytes: int | None) -> tuple[bytes, ObjectInfo]:
        bucket, key = _split(uri)
        damaged: list[bytes] = []

        async def get(s3: Any) -> tuple[bytes, ObjectInfo]:
            response = await s3._call_s3("get_object", Bucket=bucket, Key=key)
            body = response["Body"]
            try:
                size = response["ContentLength"]
                if max_bytes is not None and size > max_bytes:
                    raise TooLargeError(
                        f"read {uri}: it has {size} bytes, but at most {max_bytes} are wanted",
                        size,
                    )
                content = bytes(await body.read())
            finally:
                body.close()
            if bucket not in self._buckets_without_md5 and not _has_its_md5(content, response):
                digest = hashlib.sha256(content).digest()
                if digest not in damaged:
                    damaged.append(digest)
                    raise _DamagedError("its MD5 is not the ETag: a byte was changed on the way")
                # The same bytes twice are what the store holds; its ETags are something else.
                self._buckets_without_md5.add(bucket)
            return content, _info(uri, response)

        return _call("read", uri, get)

    def read_range(self, uri: str, start: int, length: int, etag: str | None) -> bytes:
        bucket, key = _split(uri)
        wanted = {"Range": f"bytes={start}-{start + length - 1}"}
        if etag is not None:
            wanted["IfMatch"] = f'"{etag}"'

        async def get(s3: Any) -> bytes:
            response = await s3._call_s3("get_object", Bucket=bucket, Key=key, **wanted)
            body = response["Body"]
            try:
                return bytes(await body.read())
            finally:
                body.close()

        return _call("read", uri, get)

    def stat(self, uri: str) -> ObjectInfo:
        bucket, key = _split(uri)

        async def head(s3: Any) -> ObjectInfo:
            response = await s3._call_s3("head_object", Bucket=bucket, Key=key)
            return _info(uri, response)

        return _call("stat", uri, head)

    def walk(
        self, prefix: str, *, is_flat: bool, start_after: str | None, tells_problems: bool = False
    ) -> Iterator[ObjectInfo]:
        bucket, key_prefix = _split(prefix, is_key_needed=False)
        request = {"Bucket": bucket, "Prefix": key_prefix, "MaxKeys": LIST_PAGE_SIZE}
        if is_flat:
            request["Delimiter"] = "/"
        if start_after is not None:
            request["StartAfter"] = _split(start_after)[1]

        async def page(s3: Any) -> dict[str, Any]:
            return dict(await s3._call_s3("list_objects_v2", **request))

        while True:
            response = _call("list", prefix, page)
            for item in response.get("Contents", ()):
                # Consoles mark empty "directories" with objects whose key ends in a slash.
                if not item["Key"].endswith("/"):
                    yield ObjectInfo(
                        uri=f"s3://{bucket}/{item['Key']}",
                        size=item["Size"],
                        etag=item["ETag"].strip('"'),
                        mtime_ns=_nanoseconds(item["LastModified"]),
                    )
            if not response.get("IsTruncated"):
                return
            request["ContinuationToken"] = response["NextContinuationToken"]

    def put(self, uri: str, body: bytes) -> None:
        self._put(uri, body)

    def put_if_absent(self, uri: str, body: bytes) -> bool:
        return self._put(uri, body, IfNoneMatch="*")

    def delete(self, uri: str) -> None:
        bucket, key = _split(uri)

        async def delete(s3: Any) -> None:
            await s3._call_s3("delete_object", Bucket=bucket, Key=key)

        _call("delete", uri, delete)

    def _put(self, uri: str, body: bytes, **condition: str) -> bool:
        bucket, key = _split(uri)
        # The one checksum of the way to the store that every store understands.
        md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()

        async def put(s3: Any) -> bool:
            # Never s3fs's own pipe_file: it turns a large body into a multipart upload, on whose
            # completion some stores ignore the condition.
            try:
                await s3._call_s3(
                    "put_object",
                    Bucket=bucket,
                    Key=key,
                    Body=BytesIO(body),
                    ContentMD5=md5,
                    **condition,
                )
            except OSError as error:
                if condition and _answer(error)[0] == 412:
                    return False
                raise
            return True

        return _call("put", uri, put)


class _DamagedError(Exception):
    """What arrived is not what the store holds."""


def _has_its_md5(content: bytes, response: Mapping[str, Any]) -> bool:
    """Compare with the ETag, where that is the MD5 of the bytes.

    It is not for multipart uploads (it then has a dash) and under two kinds of encryption.
    """
    etag = response["ETag"].strip('"')
    is_md5 = (
        _MD5.fullmatch(etag)
        and "SSECustomerAlgorithm" not in response
        and not response.get("ServerSideEncryption", "").startswith("aws:")
    )
    return not is_md5 or hashlib.md5(content, usedforsecurity=False).hexdigest() == etag


def _info(uri: str, response: Mapping[str, Any]) -> ObjectInfo:
    """Read what GET and HEAD both say of an object."""
    return ObjectInfo(
        uri=uri,
        size=response["ContentLength"],
        etag=response["ETag"].strip('"'),
        version=response.get("VersionId"),
        mtime_ns=_nanoseconds(response["LastModified"]),
    )


def _split(uri: str, *, is_key_needed: bool = True) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or (is_key_needed and not key):
        raise ConfigError(f"{redact(uri)!r} must name a bucket and a key: s3://BUCKET/KEY")
    return bucket, key


def _nanoseconds(moment: Any) -> int:
    return int(moment.timestamp()) * 1_000_000_000


def _filesystem() -> Any:
    """Give this process's client for the environment as it is now."""
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


def _call(action: str, uri: str, operation: Callable[[Any], Awaitable[T]]) -> T:
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


def _answer(error: BaseException) -> tuple[int, str]:
    """Read status and code of the store's answer; ``(0, "")`` when there was none."""
    # s3fs translates what botocore raises and keeps the original as the cause.
    cause = error if isinstance(error, boto.ClientError) else error.__cause__
    if not isinstance(cause, boto.ClientError):
        return 0, ""
    status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status, cause.response.get("Error", {}).get("Code", "")


def _is_retryable(error: Exception) -> bool:
    status, code = _answer(error)
    if status:
        # 501: the store does not know what it was asked for, and will not learn it.
        return (
            code in _RETRYABLE_CODES
            or status in (408, 409, 429)
            or (status >= 500 and status != 501)
        )
    return not isinstance(error, _NOT_RETRYABLE)


def _explain(action: str, uri: str, error: Exception) -> StorageError:
    status, code = _answer(error)
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
