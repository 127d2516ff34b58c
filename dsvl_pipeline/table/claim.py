"""Claims: conditional writes of documents, which only the first writer of a name wins."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from dsvl_pipeline.errors import ConfigError, NotFoundError, StorageError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.document import load

_NUM_RACES = 3
_NUM_RACERS = 4


def claim(uri: str, document: dict[str, Any], *, advice: str) -> dict[str, Any]:
    """Write a JSON document unless there is one, and return the one that now stands.

    The caller tells by its token whether that is its own. The store's answer would not do: when it
    is lost on the way, the retry finds our own document and is refused.

    Args:
        uri: What is claimed.
        document: Must hold a ``token`` that nobody else uses.
        advice: What to do where the one that stands is damaged.

    Raises:
        TableError: It is.
    """
    if objects.put_if_absent(uri, json.dumps(document).encode()):
        return document
    return load(uri, objects.read(uri), advice=advice)


def check_claims(uri: str, token: str) -> None:
    """Check that the store lets one win of several who claim a name at once.

    A store that gets it wrong now and then is found by the tokens of what is claimed, which are
    read back; one that mostly does is found here, before anything is computed.

    Args:
        uri: The table's place; small objects are written there and deleted again.
        token: Makes the objects' names.

    Raises:
        ConfigError: Nothing can be written there, or the store ignores the condition or checks it
            apart from the write, so that two drivers could overwrite each other.
    """
    try:
        most_winners = _most_winners(objects.join(uri, "_dsvl", f"probe-{token}"))
    except (ConfigError, NotFoundError) as error:
        raise ConfigError(
            f"output.uri: {objects.redact(uri)} cannot be created or written: {error}; give a "
            "directory that can be made, or s3://BUCKET/PREFIX of a bucket that exists"
        ) from error
    if most_winners > 1:
        raise ConfigError(
            f"output.uri: the store of {objects.redact(uri)} does not honour conditional "
            f"writes (If-None-Match: *): of {_NUM_RACERS} writers of one object {most_winners} "
            "were told that they were first, so two runs could destroy each other's results; use "
            "a store that does (AWS S3, Ceph, MinIO), without a proxy that answers by itself, or "
            "a bucket without versioning on Ceph"
        )


def _most_winners(probe: str) -> int:
    """Race writers for a few names; return the most who were told that one was theirs.

    An answer may be lost, so that nobody wins a race.
    """
    bodies = [f"writer {number}".encode() for number in range(_NUM_RACERS)]
    probes = [f"{probe}-{number}.json" for number in range(_NUM_RACES)]
    most = 0
    try:
        with ThreadPoolExecutor(_NUM_RACERS) as threads:
            for name in probes:
                won = list(threads.map(lambda body, n=name: objects.put_if_absent(n, body), bodies))
                most = max(most, won.count(True))
    except StorageError:
        with suppress(StorageError):  # the first error is the one that says something
            objects.delete(probes)
        raise
    objects.delete(probes)
    return most
