"""Notice a completion that repeats itself without end. Torch-free."""

from __future__ import annotations

LONGEST_PERIOD = 64
"""Tokens of the longest text whose repetition is noticed: a sentence or two, a table's row."""
SHORT_PERIOD = 16
"""Shorter periods may be a table's rule, dotted leaders or columns of zeros."""
FEWEST_PERIODS = 4
_CHECK_EVERY = 16


class RepetitionGuard:
    """Watch one completion for a loop: a text of 1 to 64 tokens, over and over, up to its end.

    How long a loop must be to count depends on its period. Up to 15 tokens it is
    ``max_loop_tokens``: a page may well hold a rule of dashes, a row of dots or a table of zeros.
    A longer text is a phrase, which nobody prints four times in a row: half of that is enough, but
    never less than four periods.

    The loop is cut off with its completion: of what is repeated, `num_kept` tokens keep the first
    occurrence, and so does the row's text. A row that says something 40 times tells no more than
    one that says it once and is marked.

    Every 16th token of the completion is a look at its end, whatever step or batch brought it, so
    the answer does not depend on them. A look costs some microseconds.

    Args:
        max_loop_tokens: See `SamplingParams.max_loop_tokens`; above 0.
    """

    def __init__(self, max_loop_tokens: int) -> None:
        self._max_loop_tokens = max_loop_tokens
        self._ids: list[int] = []
        self._num_kept = 0

    def push(self, token_id: int) -> bool:
        """Add one id; return whether the completion loops and should end."""
        self._ids.append(token_id)
        if len(self._ids) % _CHECK_EVERY:
            return False
        period = self._period()
        if period is None:
            return False
        ids = self._ids
        start = len(ids) - period
        while start > 0 and ids[start - 1] == ids[start - 1 + period]:
            start -= 1
        self._num_kept = start + period
        return True

    @property
    def num_kept(self) -> int:
        """Tokens of the completion up to the end of the loop's first round, once `push` said so."""
        return self._num_kept

    def _period(self) -> int | None:
        """The shortest period of the loop at the end; None without one that is long enough."""
        ids = self._ids
        for period in range(1, LONGEST_PERIOD + 1):
            num_needed = max(self._max_loop_tokens // 2, FEWEST_PERIODS * period)
            if num_needed > len(ids):
                return None
            # Comparing lists stops at the first difference, but slicing copies all of them.
            if ids[-1] != ids[-1 - period] or ids[-2] != ids[-2 - period]:
                continue
            if ids[period - num_needed :] == ids[-num_needed:-period]:
                # A multiple of a short period is no phrase: nothing longer is looked for.
                is_enough = period >= SHORT_PERIOD or self._has_period(period)
                return period if is_enough else None
        return None

    def _has_period(self, period: int) -> bool:
        """Return whether the last ``max_loop_tokens`` repeat themselves with this period."""
        ids, num_needed = self._ids, self._max_loop_tokens
        if num_needed > len(ids):
            return False
        return ids[period - num_needed :] == ids[-num_needed:-period]
