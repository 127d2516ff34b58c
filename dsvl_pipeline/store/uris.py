"""What a place is: a bare path, ``file:``, ``s3://`` or a URL; its parts, and what lies below it.

Names are taken as they are spelled: nothing here asks a disk or a store, save `real`. What a job
names may begin with ``~`` (`at_home`), what a manifest names may not: there it is a character.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote_to_bytes

from dsvl_pipeline.store.redact import has_secret, name_of, redact

# Windows drive letters are no concern here; "data:" and "file:" are schemes even without slashes.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(data|file|javascript):", re.IGNORECASE)

EVERY_OBJECT = "s3://"
"""The prefix of all buckets."""


def scheme_of(uri: str) -> str:
    """Return the scheme in lower case; ``file`` for a bare path."""
    found = _SCHEME.match(uri)
    return (found[1] or found[2]).lower() if found else "file"


def is_local(uri: str) -> bool:
    """Return whether this is a bare path or a ``file:`` URI."""
    return scheme_of(uri) == "file"


def is_absolute(uri: str) -> bool:
    """Return whether this means the same in any directory and for any user."""
    return not is_local(uri) or path_of(uri).startswith("/")


def is_object(uri: str) -> bool:
    """Return whether this is an object of a store, or a prefix of objects."""
    return uri.startswith(EVERY_OBJECT)


def at_home(path: str) -> str:
    """Put the home directory in the place of ``~/`` or ``~user/`` at the beginning of a path.

    A user that does not exist is none, and ``~`` alone a file's name.
    """
    return os.path.expanduser(path) if "/" in path else path


def path_of(uri: str) -> str:
    """Return the path that a bare path or a ``file:`` URI names, as it stands, perhaps relative."""
    encoded = encoded_path(uri)
    return uri if encoded is None else decoded(encoded)


def local_path(uri: str) -> str:
    """Turn a bare path or a ``file:`` URI into an absolute path; symbolic links stay."""
    return os.path.abspath(path_of(uri))


def encoded_path(uri: str) -> str | None:
    """Return the path in a ``file:`` URI, percent-encoded as it is; None for anything else."""
    if not is_local(uri) or not _SCHEME.match(uri):
        return None
    rest = uri[len("file:") :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        return slash + path if host in ("", "localhost") else rest[2:]
    return rest


def decoded(text: str) -> str:
    """Undo percent-encoding in a path."""
    return os.fsdecode(unquote_to_bytes(os.fsencode(text)))


def as_text(path: str) -> str:
    """Spell a file name that is not UTF-8 as a ``file://`` URI: tables hold text only."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + quote(os.fsencode(path))
    return path


def bucket_of(uri: str) -> str:
    """Return an object's bucket as a URI, or a URL's scheme and host."""
    return f"{scheme_of(uri)}://{bucket_and_key(uri)[0]}"


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Divide what stands behind the scheme at its first slash; either part may be empty."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def is_bucket(uri: str) -> bool:
    """Return whether no slash follows a bucket's name."""
    return not is_local(uri) and "/" not in uri.partition("://")[2]


def join(uri: str, *parts: str) -> str:
    """Append path components."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def resolved(directory: str, name: str) -> str:
    """Resolve a name against a directory; absolute paths and URIs stay as they are.

    ``..`` cannot leave a bucket; whether it may leave a local directory is the fetcher's decision.
    """
    if ":" in name and _SCHEME.match(name):
        return name
    if is_local(directory) or name.startswith("/"):
        return as_text(os.path.normpath(os.path.join(directory, name)))
    bucket, prefix = bucket_and_key(f"{directory}/")
    key = list[str]()
    # Not posixpath.normpath: in a store "a//b" is another key than "a/b".
    for part in (prefix + name).split("/"):
        if part == "..":
            del key[-1:]
        elif part != ".":
            key.append(part)
    return f"{scheme_of(directory)}://{bucket}/{'/'.join(key)}"


def parent_of(uri: str) -> str:
    """Return what stands before the last slash."""
    return uri.rpartition("/")[0]


def last_part(uri: str) -> str:
    """Return what stands behind the last slash."""
    return uri.rpartition("/")[2]


def directory_of(uri: str) -> str:
    """Return the place that relative names in a file are relative to; a local one is absolute."""
    return os.path.dirname(local_path(uri)) if is_local(uri) else parent_of(uri)


def is_below(uri: str, directory: str) -> bool:
    """Return whether a place lies in a directory, or is that directory, by their spelling.

    In a store ``p//a`` lies below ``p//`` and below ``p/``, ``p/a`` below the latter alone.
    """
    return uri == directory or uri.startswith(directory.removesuffix("/") + "/")


def path_below(uri: str, directory: str) -> str:
    """Return the rest of a URI that begins with a directory, as listings of that directory do."""
    return uri.removeprefix(directory.rstrip("/") + "/")


def is_inside(place: str, directory: str) -> bool:
    """Return whether a place lies in a directory, or is it, however the two are spelled."""
    return is_below(real(place), real(directory).rstrip("/"))


def real(uri: str) -> str:
    """Spell a place as `is_below` compares it: a local one with its links followed."""
    return os.path.realpath(path_of(uri)) if is_local(uri) else uri


def shown(uri: str) -> str:
    """Spell a URI or path for messages: text, without secrets, and short (``data:`` is not)."""
    # Names that are not UTF-8 hold halves of characters, which tables refuse.
    text = redact(uri).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text if len(text) <= 300 else text[:300] + "..."


def row_id_of(named: str) -> str:
    """Return the row id of what a user or a manifest calls a row.

    Where that is a signed URL, or no text, the table has another name for it.
    """
    named = as_text(named)
    # A signed URL as an id would stand in the table for all to read.
    return name_of(named) if has_secret(named) else named
