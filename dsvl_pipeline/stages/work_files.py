"""Work files: rows on their way from the planner to the workers, for nobody else to read.

They hold URIs as the manifest has them, with the signatures by which workers fetch, and outlive a
run that is killed. So they are encrypted, each with a key of its own, which lies in the file
wrapped by one that only the driver and its tasks have; a later run plans anew and needs none of
them.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from hashlib import blake2b
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.parquet import encryption

from dsvl_pipeline.store import objects

_NONCE_BYTES = 16


def new_key() -> bytes:
    """Return a key for a run."""
    return secrets.token_bytes(32)


def write(uri: str, rows: pa.Table, key: bytes) -> None:
    """Write a work file."""
    factory = encryption.CryptoFactory(lambda _: _Wrapper(key))
    properties = factory.file_encryption_properties(
        encryption.KmsConnectionConfig(),
        encryption.EncryptionConfiguration(footer_key="run", uniform_encryption=True),
    )
    buffer = BytesIO()
    pq.write_table(rows, buffer, compression="zstd", encryption_properties=properties)
    objects.put(uri, buffer.getvalue())


def read(uri: str, key: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a work file of the run that has this key; all of its columns, or some."""
    factory = encryption.CryptoFactory(lambda _: _Wrapper(key))
    properties = factory.file_decryption_properties(encryption.KmsConnectionConfig())
    file = BytesIO(objects.read(uri))
    return pq.read_table(file, columns=columns, decryption_properties=properties)


class _Wrapper(encryption.KmsClient):  # type: ignore[misc]
    """Wraps a file's random key: exclusive or with a hash of the run's key and a nonce."""

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self._key = key

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return base64.b64encode(nonce + self._masked(key_bytes, nonce)).decode()

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        wrapped = base64.b64decode(wrapped_key)
        return self._masked(wrapped[_NONCE_BYTES:], wrapped[:_NONCE_BYTES])

    def _masked(self, data: bytes, nonce: bytes) -> bytes:
        mask = blake2b(nonce, key=self._key, digest_size=len(data)).digest()
        return bytes(a ^ b for a, b in zip(data, mask, strict=True))
