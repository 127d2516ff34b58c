"""Work files: rows on their way from the planner to the workers, for nobody else to read.

They hold URIs as the manifest has them, with the signatures by which workers fetch, and outlive a
run that is killed. So they are encrypted, each with a key derived from one that only the driver
and its tasks have; a later run plans anew and needs none of them.
"""

from __future__ import annotations

import secrets
from hashlib import blake2b
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.parquet import encryption

from dsvl_pipeline import storage


def new_key() -> bytes:
    """Give a run its key."""
    return secrets.token_bytes(32)


def write(uri: str, rows: pa.Table, key: bytes) -> None:
    """Write a work file."""
    properties = encryption.create_encryption_properties(_key_of(uri, key))
    buffer = BytesIO()
    pq.write_table(rows, buffer, compression="zstd", encryption_properties=properties)
    storage.put(uri, buffer.getvalue())


def read(uri: str, key: bytes) -> pa.Table:
    """Read a work file of the run that has this key."""
    properties = encryption.create_decryption_properties(_key_of(uri, key))
    return pq.read_table(BytesIO(storage.read(uri)), decryption_properties=properties)


def _key_of(uri: str, key: bytes) -> bytes:
    return blake2b(uri.encode(), key=key, digest_size=32).digest()
