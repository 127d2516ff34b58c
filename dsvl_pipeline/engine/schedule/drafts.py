"""Follow a text that a completion is expected to resemble, and propose its next tokens. Torch-free.

Whether a proposed token is kept is the model's decision (the engine verifies it with the model's
own choice), so nothing here can change a result; it can only cost or save time.

The cost rule. A decode step of one sequence is mostly the reading of its keys and values; its
share of the linear layers is a small part. A proposed token costs that part once more, but reads
no keys and values of its own. In units of a plain decode step, a step with ``k`` proposals costs
``1 + k * VERIFY_COST`` and yields one token more than were accepted. With an acceptance of ``p``
each, the ``k``-th proposal is reached with probability ``p ** k``, so there is a best ``k``, and
none pays below ``p = VERIFY_COST``.

Letters: ``K`` draft tokens, ``N`` new tokens.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

VERIFY_COST = 0.15
"""Of one proposed token, in decode steps: about 0.2 at 700 tokens of context, 0.1 at 1,500."""
MOST_LOST = 3.0
"""What a draft may cost, in decode steps, beyond what it saved."""
MOST_SAVED = 6.0
"""How much of what it saved counts, so that a draft that turned useless goes soon after."""

_MOST_LOST_AT_ONCE = 1.0  # one long proposal that was wrong must not end a draft
_LOST_COST = 0.1  # of a token without a proposal: it keeps the row out of the cheapest steps
_MEMORY = 0.9  # weight of what was learnt before a step, against the step itself
_PRIOR = 2.0  # accepted tokens that a new draft is credited with
_NUM_ASSUMED = 3  # tokens after a mismatch for which a place is assumed
_MOST_LEAN = 4  # how far habits of the draft count
_NUM_NEAR = 64  # draft tokens beyond the last good place that are searched one by one
_NUM_NEAR_FOR_TWO = 16  # the same for two tokens only
_INDEXED = 4  # tokens that identify a place anywhere in the draft


class Draft:
    """One completion's place in its draft.

    After a token that is not the draft's, a substitution is assumed and the draft goes on one
    further (or stays where it is, if this draft was found to leave out tokens more often). If the
    next tokens contradict that, they are looked for near the last good place, and in the whole
    draft from the third one on. Where they are not found nothing is proposed until they are.

    Each produced token costs a bounded amount of work, whatever the length of the draft; the index
    of its n-grams is made once, and only when it is needed.
    """

    def __init__(self, draft_ids: NDArray[np.int32]) -> None:
        self._ids = np.array(draft_ids, dtype=np.int32)
        self._ids.flags.writeable = False
        self._draft: list[int] = self._ids.tolist()
        self._places: dict[tuple[int, ...], list[int]] | None = None
        self._num_seen = 0  # tokens of the completion that were followed
        self._place: int | None = 0  # of the next token in the draft; None: unknown
        self._good_place = 0  # behind the last token that was the draft's
        self._num_missed = 0  # tokens produced since
        self._lean = 0  # above 0: this draft leaves out tokens more often than it replaces them
        self._num_accepted = _PRIOR
        self._num_refused = 0.0
        self._saved = 0.0
        self._is_off = not self._draft

    def __len__(self) -> int:
        """Count its tokens."""
        return len(self._draft)

    @property
    def is_active(self) -> bool:
        """Whether it may still propose something; once False, False for good."""
        return not self._is_off

    def propose(self, completion_ids: NDArray[np.int32], limit: int) -> NDArray[np.int32]:
        """Return what the draft says comes next.

        Args:
            completion_ids: ``int32[N]``, all that was produced; only ever longer.
            limit: Most tokens to propose.

        Returns:
            ``int32[<= limit]``, a read-only view; empty where nothing would pay.
        """
        if self._is_off:
            return self._ids[:0]
        self._follow(completion_ids)
        if self._place is None or self._is_off:
            return self._ids[:0]
        count = min(self._best_count(limit), len(self._draft) - self._place)
        return self._ids[self._place : self._place + count]

    def note(self, num_proposed: int, num_accepted: int) -> None:
        """Learn what became of a proposal.

        Args:
            num_proposed: Tokens that were verified; may be fewer than were proposed.
            num_accepted: How many of them, from the first, the model chose as well.
        """
        if not num_proposed:
            return
        refused = float(num_accepted < num_proposed)  # what follows a refused one says nothing
        self._num_accepted = _MEMORY * self._num_accepted + num_accepted
        self._num_refused = _MEMORY * self._num_refused + refused
        self._add_saved(num_accepted - VERIFY_COST * num_proposed)

    def _add_saved(self, saved: float) -> None:
        self._saved = min(self._saved + max(saved, -_MOST_LOST_AT_ONCE), MOST_SAVED)
        if self._saved < -MOST_LOST:
            self._is_off = True
            self._places = None

    def _best_count(self, limit: int) -> int:
        """Return the number of proposals with the highest yield for its cost, by the rule above."""
        if not self._num_refused:
            return limit
        acceptance = self._num_accepted / (self._num_accepted + self._num_refused)
        tokens, cost, reached = 1.0, 1.0, 1.0
        for count in range(limit):
            reached *= acceptance
            if reached * cost <= VERIFY_COST * tokens:
                return count
            tokens += reached
            cost += VERIFY_COST
        return limit

    # -------------------------------------------------------------------- place

    def _follow(self, completion_ids: NDArray[np.int32]) -> None:
        """Find the place in the draft of what comes after the completion."""
        produced: list[int] = completion_ids[self._num_seen :].tolist()
        if not produced:
            return
        # What was seen before may be needed to find the place again.
        start = max(self._num_seen - _INDEXED, 0)
        known = completion_ids[start : self._num_seen].tolist()
        for token_id in produced:
            known.append(token_id)
            self._num_seen += 1
            place = self._place
            if place is not None and place < len(self._draft) and self._draft[place] == token_id:
                if self._num_missed == 1:
                    self._learn(place)
                self._settle(place + 1)
                continue
            self._num_missed += 1
            found = self._find(known)
            if found is not None:
                self._settle(found)
            elif self._num_missed <= _NUM_ASSUMED:
                self._place = self._good_place + self._num_missed - (self._lean > 0)
            else:
                self._place = None
                self._add_saved(-_LOST_COST)
                if self._is_off:
                    return

    def _settle(self, place: int) -> None:
        self._place = self._good_place = place
        self._num_missed = 0

    def _learn(self, place: int) -> None:
        """Remember whether the token before was one too many, or stood for one of the draft's."""
        step = 1 if place == self._good_place else -1
        self._lean = max(-_MOST_LEAN, min(_MOST_LEAN, self._lean + step))

    def _find(self, known: list[int]) -> int | None:
        """The place behind the last produced tokens, if they stand where the draft may go on."""
        draft, good, num_missed = self._draft, self._good_place, self._num_missed
        token_id = known[-1]
        if num_missed == 1:  # the draft has one token more?
            return good + 2 if draft[good + 1 : good + 2] == [token_id] else None
        if num_missed == 2:  # one token less, or another one: what was not assumed?
            other = good + (self._lean > 0)
            if draft[other : other + 1] == [token_id]:
                self._learn(other)
                return other + 1
            return self._near(known[-2:], _NUM_NEAR_FOR_TWO)
        return self._near(known[-3:], _NUM_NEAR) or self._anywhere(known[-_INDEXED:])

    def _near(self, wanted: list[int], reach: int) -> int | None:
        """Return the first place in reach of the last good one that comes behind these tokens."""
        count = len(wanted)
        window = self._draft[self._good_place : self._good_place + reach + count]
        last = wanted[-1]
        for end, token_id in enumerate(window[count - 1 :], start=count):
            if token_id == last and window[end - count : end] == wanted:
                return self._good_place + end
        return None

    def _anywhere(self, wanted: list[int]) -> int | None:
        """The place behind these tokens that is nearest to the last good one, later ones first."""
        if len(wanted) < _INDEXED:
            return None
        if self._places is None:
            self._places = {}
            shifted = [self._draft[i:] for i in range(_INDEXED)]
            for end, ngram in enumerate(zip(*shifted, strict=False), start=_INDEXED):
                self._places.setdefault(ngram, []).append(end)
        places = self._places.get(tuple(wanted))
        if not places:
            return None
        after = bisect_left(places, self._good_place)
        return places[min(after, len(places) - 1)]
