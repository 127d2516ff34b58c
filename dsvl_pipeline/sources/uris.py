"""What may stand where a job or a manifest names a file: paths, ``file://``, ``s3://``, URLs."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from urllib.parse import quote, unquote_to_bytes

from dsvl_pipeline.storage import redact

# Windows drive letters are no concern here; "data:" and "file:" are schemes even without slashes.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(data|file|javascript):", re.IGNORECASE)


def scheme_of(uri: str) -> str:
    """Give the scheme in lower case; ``file`` for a bare path."""
    found = _SCHEME.match(uri)
    return (found[1] or found[2]).lower() if found else "file"


def local_path(uri: str) -> str:
    """Turn a bare path or a ``file:`` URI into an absolute path; symbolic links stay."""
    if _SCHEME.match(uri):
        rest = uri[len("file:") :]
        if rest.startswith("//"):
            host, slash, path = rest[2:].partition("/")
            rest = slash + path if host in ("", "localhost") else rest[2:]
        uri = os.fsdecode(unquote_to_bytes(rest))
    return os.path.abspath(uri)


def shown(uri: str) -> str:
    """Spell a URI or path for messages: text, without secrets, and short (``data:`` is not)."""
    # Names that are not UTF-8 hold halves of characters, which tables refuse.
    text = redact(uri).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text if len(text) <= 300 else text[:300] + "..."


def name_of(uri: str) -> str:
    """Give a name for rows: the URI without secrets, a digest where that removed something."""
    name = redact(uri)
    if name == uri:
        return uri
    return f"{name}#{hashlib.sha256(uri.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


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
    scheme, _, rest = directory.partition("://")
    bucket, _, prefix = rest.partition("/")
    return f"{scheme}://{bucket}{posixpath.normpath(posixpath.join('/', prefix, name))}"
