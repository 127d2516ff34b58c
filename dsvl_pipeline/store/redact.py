"""The one filter that keeps credentials out of what is logged, stored or shown."""

from __future__ import annotations

import hashlib
import os
import re
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "[hidden]"

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_TOKENS = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS access key ids
    r"|\bhf_[A-Za-z0-9]{16,}\b"  # Hugging Face tokens
    r"|(?<=X-Amz-Signature=)\w+|(?<=X-Amz-Credential=)[^\s&]+|(?<=X-Amz-Security-Token=)[^\s&]+"
)
# Of the environment: whatever is named like a secret, and is no place where one lies.
_SECRET_VARIABLE = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|API_?KEY|CREDENTIAL|PRIVATE_?KEY")
_PLACE_VARIABLE = re.compile(r"_(FILE|PATH|DIR|URI|URL|MODE)S?$")
_SECRET_PARAMETER = re.compile(
    r"[?&#;](?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig|token|"
    r"access_?token|api_?key|key|password|passwd|secret|auth|authorization)=",
    re.IGNORECASE,
)
# A shorter "secret" is a test's, and would riddle ordinary text with holes.
_LEAST_SECRET_LENGTH = 12


def redact(uri: str) -> str:
    """Drop user info, query string and fragment, where signed URLs carry credentials.

    Paths and ``s3://`` have neither query nor fragment: there ``?`` and ``#`` are characters of a
    name, which stays whole unless what follows looks like a signature.
    """
    if "://" not in uri or uri.startswith("file://"):
        return uri
    if uri.startswith("s3://"):
        bucket, slash, key = uri.removeprefix("s3://").partition("/")
        if found := _SECRET_PARAMETER.search(key):
            key = re.split(r"[?#]", key[: found.start()], maxsplit=1)[0]
        return f"s3://{bucket.rpartition('@')[2]}{slash}{key}"
    try:
        pieces = urlsplit(uri)
    except ValueError:  # a bracket that opens no address
        return uri.partition("://")[0] + "://" + HIDDEN
    return urlunsplit((pieces.scheme, pieces.netloc.rpartition("@")[2], pieces.path, "", ""))


def name_of(uri: str) -> str:
    """Return a name for rows: the URI without secrets, a digest where that removed something."""
    name = redact(uri)
    if name == uri:
        return uri
    return f"{name}#{hashlib.sha256(uri.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def has_secret(uri: str) -> bool:
    """Return whether a URI holds user info, or a query like that of a signed URL."""
    if "://" not in uri:
        return False
    authority = re.split(r"[/?#]", uri.partition("://")[2], maxsplit=1)[0]
    return "@" in authority or _SECRET_PARAMETER.search(uri) is not None


def redact_text(text: str) -> str:
    """Apply `redact` to every URI in a text, and hide keys and tokens by their form or value."""
    text = _URI.sub(lambda found: redact(found[0]), text)
    text = _TOKENS.sub(HIDDEN, text)
    for name, value in os.environ.items():
        if (
            len(value) >= _LEAST_SECRET_LENGTH
            and _SECRET_VARIABLE.search(name.upper())
            and not _PLACE_VARIABLE.search(name.upper())
        ):
            text = text.replace(value, HIDDEN)
    return text
