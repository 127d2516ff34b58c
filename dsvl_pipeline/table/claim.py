"""Claims: documents that only the first writer of a name can write."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from dsvl_pipeline import storage
from dsvl_pipeline.errors import ConfigError, NotFoundError, StorageError


def claim(uri: str, document: dict[str, Any]) -> dict[str, Any]:
    """Write a JSON document unless there is one, and return the one that now stands.

    The caller tells by its token whether that is its own. The store's answer would not do: when it
    is lost on the way, the retry finds our own document and is refused.

    Args:
        uri: What is claimed.
        document: Must hold a ``token`` that nobody else uses.
    """
    if storage.put_if_absent(uri, json.dumps(document).encode()):
        return document
    standing: dict[str, Any] = json.loads(storage.read(uri))
    return standing


def check_claims(uri: str, token: str) -> None:
    """Make sure that the store refuses the second claim of a name.

    Args:
        uri: The table's place; a small object is written there and deleted again.
        token: Makes the object's name.

    Raises:
        ConfigError: Nothing can be written there, or the store ignores the condition, so that two
            drivers could overwrite each other.
    """
    try:
        is_honoured = _is_second_refused(storage.join(uri, "_dsvl", f"probe-{token}.json"))
    except (ConfigError, NotFoundError) as error:
        raise ConfigError(
            f"output.uri: {storage.redact(uri)} cannot be created or written: {error}; give a "
            "directory that can be made, or s3://BUCKET/PREFIX of a bucket that exists"
        ) from error
    if not is_honoured:
        raise ConfigError(
            f"output.uri: the store of {storage.redact(uri)} does not honour conditional "
            "writes (If-None-Match: *), so two runs could destroy each other's results; use a "
            "store that does (AWS S3, Ceph, MinIO), or a bucket without versioning on Ceph"
        )


def _is_second_refused(probe: str) -> bool:
    storage.put_if_absent(probe, b"first")
    try:
        is_written = storage.put_if_absent(probe, b"second")
    except StorageError:
        with suppress(StorageError):  # the first error is the one that says something
            storage.delete([probe])
        raise
    storage.delete([probe])
    return not is_written
