"""Notice a stop text the moment the tokens of a growing completion spell it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

DecodeIds = Callable[[Sequence[int]], str]
"""Token ids -> text without special tokens, as ``Processor.decode`` gives it."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class StopText:
    """Watch one completion for any of its stop texts.

    A byte-level token may hold a part of a UTF-8 character, which decodes to a replacement
    character until the rest arrives; such tokens are decoded again together with the next.
    """

    def __init__(self, stop: Sequence[str], decode: DecodeIds) -> None:
        self._stop = tuple(stop)
        self._decode = decode
        self._num_kept = max(len(text) for text in stop) - 1
        self._tail = ""  # the end of the settled text, as long as a stop text may begin in it
        self._pending: list[int] = []  # ids since the last border between characters

    def push(self, token_id: int) -> bool:
        """Add one id; return whether the completion now holds a stop text."""
        before = self._decode(self._pending)
        self._pending.append(token_id)
        text = self._decode(self._pending)
        if any(stop in self._tail + text for stop in self._stop):
            return True
        if not text.endswith(_REPLACEMENT):
            self._settle(text, pending=[])
        elif before and text == before + self._decode([token_id]):
            # Bytes that no later token can turn into a character: without this, a model that
            # babbles bytes would have all of them decoded again at every step.
            self._settle(before, pending=[token_id])
        return False

    def _settle(self, text: str, *, pending: list[int]) -> None:
        joined = self._tail + text
        self._tail = joined[max(len(joined) - self._num_kept, 0) :]
        self._pending = pending


def cut_before(text: str, stop: Sequence[str]) -> str:
    """Return the text up to the first of the stop texts, or all of it."""
    found = [position for position in map(text.find, stop) if position >= 0]
    return text[: min(found, default=len(text))]
