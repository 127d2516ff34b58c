"""Notice a stop text the moment the tokens of a growing completion spell it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

DecodeIds = Callable[[Sequence[int]], str]
"""Token ids -> text without special tokens, as ``Processor.decode`` gives it."""

# Tokens that a character of UTF-8 can still lack the end of: it has at most four bytes.
_MOST_UNFINISHED = 3
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class StopText:
    """Watch one completion for any of its stop texts.

    A byte-level token may hold a part of a UTF-8 character, which decodes to a replacement
    character until the rest arrives; such tokens are decoded again together with the next. Other
    tokenizers drop the space before a text's first word, so tokens are decoded behind the ones
    before them.
    """

    def __init__(self, stop: Sequence[str], decode: DecodeIds) -> None:
        self._stop = tuple(stop)
        self._decode = decode
        self._num_kept = max(len(text) for text in stop) - 1
        self._tail = ""  # the end of the settled text, as long as a stop text may begin in it
        self._pending: list[int] = []  # ids since the last border between characters
        self._context: list[int] = []  # the last ids before these that spell anything
        self._context_text = ""

    def push(self, token_id: int) -> bool:
        """Add one id; return whether the completion now holds a stop text."""
        self._pending.append(token_id)
        text = self._read(self._pending)
        if any(stop in self._tail + text for stop in self._stop):
            return True
        if not text.endswith(_REPLACEMENT):
            self._settle(text, pending=[])
        elif len(self._pending) > _MOST_UNFINISHED:
            # Bytes that no later token can turn into a character: without this, a model that
            # babbles bytes would have all of them decoded again at every step.
            newest = self._pending[-_MOST_UNFINISHED:]
            before = self._read(self._pending[:-_MOST_UNFINISHED])
            if text == before + self._decode(newest):
                self._settle(before, pending=newest)
        return False

    def _read(self, ids: list[int]) -> str:
        """Decode ids as what follows the context."""
        text = self._decode([*self._context, *ids])
        if text.startswith(self._context_text):
            return text[len(self._context_text) :]
        # With byte fallback, half a character spoils the whole ones before it.
        return self._decode(ids)

    def _settle(self, text: str, *, pending: list[int]) -> None:
        if text:
            self._context = self._pending[: len(self._pending) - len(pending)]
            self._context_text = self._decode(self._context)
        joined = self._tail + text
        self._tail = joined[max(len(joined) - self._num_kept, 0) :]
        self._pending = pending


def cut_before(text: str, stop: Sequence[str]) -> str:
    """Return the text up to the first of the stop texts, or all of it."""
    found = [position for position in map(text.find, stop) if position >= 0]
    return text[: min(found, default=len(text))]
