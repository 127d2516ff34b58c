"""Objects in S3 and in what speaks its language; `s3_client` is how it is asked."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

from dsvl_pipeline.errors import ConfigError, TooLargeError
from dsvl_pipeline.store.backend import ObjectInfo
from dsvl_pipeline.store.redact import redact
from dsvl_pipeline.store.s3_client import answer_of, call
from dsvl_pipeline.store.uris import bucket_and_key

LIST_PAGE_SIZE = 1000
_MD5 = re.compile(r"[0-9a-f]{32}")


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

        return call("read", uri, get)

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

        return call("read", uri, get)

    def stat(self, uri: str) -> ObjectInfo:
        bucket, key = _split(uri)

        async def head(s3: Any) -> ObjectInfo:
            response = await s3._call_s3("head_object", Bucket=bucket, Key=key)
            return _info(uri, response)

        return call("stat", uri, head)

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
            response = call("list", prefix, page)
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

        call("delete", uri, delete)

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
                if condition and answer_of(error)[0] == 412:
                    return False
                raise
            return True

        return call("put", uri, put)


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
    bucket, key = bucket_and_key(uri)
    if not bucket or (is_key_needed and not key):
        raise ConfigError(f"{redact(uri)!r} must name a bucket and a key: s3://BUCKET/KEY")
    return bucket, key


def _nanoseconds(moment: Any) -> int:
    return int(moment.timestamp()) * 1_000_000_000
