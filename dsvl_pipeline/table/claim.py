"""Claims: documents that only the first writer of a name can write."""

from __future__ import annotations

import json
from typing import Any

from dsvl_pipeline import storage
from dsvl_pipeline.errors import ConfigError


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
        uri: A directory to write a small object in; it is deleted again.
        token: Makes the object's name.

    Raises:
        ConfigError: The store ignores the condition, so two drivers could overwrite each other.
    """
    probe = storage.join(uri, f"probe-{token}.json")
    try:
        storage.put_if_absent(probe, b"first")
        if storage.put_if_absent(probe, b"second"):
            raise ConfigError(
                f"output.uri: the store of {storage.redact(uri)} does not honour conditional "
                "writes (If-None-Match: *), so two runs could destroy each other's results; use a "
                "store that does (AWS S3, Ceph, MinIO), or a bucket without versioning on Ceph"
            )
    finally:
        storage.delete([probe])
