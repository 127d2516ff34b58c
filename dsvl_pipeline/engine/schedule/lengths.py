"""How long completions will probably get."""

from __future__ import annotations

import math
from collections import deque

# Enough to tell a mean and a spread; before that, every completion may be as long as it may be.
_LEAST = 32
# A job's rows may change their nature on the way.
_WINDOW = 1024


class ExpectedLength:
    """Mean plus two standard deviations of the latest completions' tokens.

    Attributes:
        tokens: What most completions stay below; infinite while nothing is known.
    """

    def __init__(self) -> None:
        self.tokens = math.inf
        self._latest: deque[int] = deque(maxlen=_WINDOW)
        self._sum = self._sum_of_squares = 0

    def note(self, num_tokens: int) -> None:
        """Count a completion that came to its own end or to its limit."""
        if len(self._latest) == _WINDOW:
            oldest = self._latest[0]
            self._sum -= oldest
            self._sum_of_squares -= oldest**2
        self._latest.append(num_tokens)
        self._sum += num_tokens
        self._sum_of_squares += num_tokens**2
        count = len(self._latest)
        if count >= _LEAST:
            mean = self._sum / count
            variance = max(self._sum_of_squares / count - mean**2, 0.0)
            self.tokens = mean + 2 * math.sqrt(variance)
