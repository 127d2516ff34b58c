"""Jinja as chat templates are written for it: the environment that transformers gives them."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


def private_spelling() -> str:
    """Return 128 random bits as private-use characters.

    No normaliser or template filter alters them, and nobody can guess them.
    """
    return "".join(chr(0x100000 + secrets.randbelow(0xFFFE)) for _ in range(8))


# Written into the text and taken out again.
_FIRST, _LAST = private_spelling(), private_spelling()
_MARK = re.compile(f"({_FIRST}|{_LAST})")
CONTINUED = private_spelling() + " "
"""Stands behind the text that an answer shall continue."""


def environment() -> ImmutableSandboxedEnvironment:
    """Return a new environment."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension]
    )
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return made


def take_marks(rendered: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Return a text without the marks of ``{% generation %}``, and what lay between them.

    The pairs are the first character and the one behind the last.
    """
    text, spans, start = "", [], 0
    for piece in _MARK.split(rendered):
        if piece == _FIRST:
            start = len(text)
        elif piece == _LAST:
            spans.append((start, len(text)))
        else:
            text += piece
    return text, tuple(spans)


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's words, as training wants to know them."""

    tags = {"generation"}  # noqa: RUF012  as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return f"{_FIRST}{caller()}{_LAST}"


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


# Jinja's own filter escapes HTML.
def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)
