"""The one filter that keeps credentials out of what is logged, stored or shown."""

from __future__ import annotations

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
_SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
)
# A shorter "secret" is a test's, and would riddle ordinary text with holes.
_LEAST_SECRET_LENGTH = 12


def redact(uri: str) -> str:
    """Drop user info, query string and fragment, where signed URLs carry credentials."""
    if "://" not in uri or uri.startswith("file://"):
        return uri
    try:
        pieces = urlsplit(uri)
    except ValueError:  # a bracket that opens no address
        return uri.partition("://")[0] + "://" + HIDDEN
    return urlunsplit((pieces.scheme, pieces.netloc.rpartition("@")[2], pieces.path, "", ""))


def redact_text(text: str) -> str:
    """Apply `redact` to every URI in a text, and hide keys and tokens by their form or value."""
    text = _URI.sub(lambda found: redact(found[0]), text)
    text = _TOKENS.sub(HIDDEN, text)
    for name in _SECRET_VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= _LEAST_SECRET_LENGTH:
            text = text.replace(value, HIDDEN)
    return text
