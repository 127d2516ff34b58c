"""What may stand where a job or a manifest names a file: paths, ``file://``, ``s3://``, URLs."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote_to_bytes

from dsvl_pipeline.store.objects import has_secret, name_of, redact

# Windows drive letters are no concern here; "data:" and "file:" are schemes even without slashes.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(data|file|javascript):", re.IGNORECASE)


def scheme_of(uri: str) -> str:
    """Give the scheme in lower case; ``file`` for a bare path."""
    found = _SCHEME.match(uri)
    return (found[1] or found[2]).lower() if found else "file"


def local_path(uri: str) -> str:
    """Turn a bare path or a ``file:`` URI into an absolute path; symbolic links stay."""
    encoded = encoded_path(uri)
    return os.path.abspath(uri if encoded is None else decoded(encoded))


def encoded_path(uri: str) -> str | None:
    """Give the path in a ``file:`` URI, percent-encoded as it is; None for a bare path."""
    if not _SCHEME.match(uri):
        return None
    rest = uri[len("file:") :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        return slash + path if host in ("", "localhost") else rest[2:]
    return rest


def decoded(text: str) -> str:
    """Undo percent-encoding in a path."""
    return os.fsdecode(unquote_to_bytes(os.fsencode(text)))


def shown(uri: str) -> str:
    """Spell a URI or path for messages: text, without secrets, and short (``data:`` is not)."""
    # Names that are not UTF-8 hold halves of characters, which tables refuse.
    text = redact(uri).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text if len(text) <= 300 else text[:300] + "..."


def row_id_of(named: str) -> str:
    """Give the row id of what a user or a manifest calls a row.

    Where that is a signed URL, or no text, the table has another name for it.
    """
    named = as_text(named)
    # A signed URL as an id would stand in the table for all to read.
    return name_of(named) if has_secret(named) else named


def directory_of(uri: str) -> str:
    """Give the place that relative names in a file are relative to."""
    if scheme_of(uri) == "file":
        return os.path.dirname(local_path(uri))
    return uri.rpartition("/")[0]


def as_text(path: str) -> str:
    """Spell a file name that is not UTF-8 as a ``file://`` URI: tables hold text only."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + quote(os.fsencode(path))
    return path


def join(directory: str, name: str) -> str:
    """Resolve a name against a directory; absolute paths and URIs stay as they are.

    ``..`` cannot leave a bucket; whether it may leave a local directory is the fetcher's decision.
    """
    if ":" in name and _SCHEME.match(name):
        return name
    if "://" not in directory or name.startswith("/"):
        return as_text(os.path.normpath(os.path.join(directory, name)))
    scheme, _, rest = f"{directory}/".partition("://")
    bucket, _, prefix = rest.partition("/")
    key = list[str]()
    # Not posixpath.normpath: in a store "a//b" is another key than "a/b".
    for part in (prefix + name).split("/"):
        if part == "..":
            del key[-1:]
        elif part != ".":
            key.append(part)
    return f"{scheme}://{bucket}/{'/'.join(key)}"
