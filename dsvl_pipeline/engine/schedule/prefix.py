"""Which beginnings of prompts are alike, and where they were computed already.

Letters: ``T`` prompt tokens.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np

from dsvl_pipeline.engine.schedule.pages import PagePool
from dsvl_pipeline.engine.schedule.sequence import Sequence
from dsvl_pipeline.records import Request

_KEY_BYTES = 16
# Different system prompts that are remembered at once; a job has one, rarely a few.
_MOST_PARTIAL_PAGES = 8

PageCopy = tuple[int, int]
"""A page to be copied, and the page to copy it to."""


def page_keys(request: Request, image_token_id: int, page_size: int) -> tuple[bytes, ...]:
    """Return a key for each full page of a prompt; pages of one key hold the same.

    A key covers everything before the page's end, pictures included. The page that holds the
    prompt's last token is left out: that token must be computed, for the first logits.
    """
    ids = request.prompt_ids
    num_pages = (len(ids) - 1) // page_size
    if not num_pages:
        return ()
    is_image = ids[: num_pages * page_size] == image_token_id
    # Images begun before each page's end; all pictures take the same number of tokens.
    tokens_per_image = int(np.count_nonzero(ids == image_token_id)) // max(len(request.images), 1)
    keys: list[bytes] = []
    key, num_seen = b"", 0
    for page in range(num_pages):
        tokens = slice(page * page_size, (page + 1) * page_size)
        count = int(np.count_nonzero(is_image[tokens]))
        digest = hashlib.blake2b(key, digest_size=_KEY_BYTES)
        digest.update(ids[tokens].tobytes())
        if count:
            first = num_seen // tokens_per_image
            last = (num_seen + count - 1) // tokens_per_image
            for image in request.images[first : last + 1]:
                digest.update(len(image.digest).to_bytes(2, "little") + image.digest)
        num_seen += count
        key = digest.digest()
        keys.append(key)
    return tuple(keys)


def text_before_images(request: Request, image_token_id: int) -> int:
    """Return the tokens before the first image token; 0 where there is no image."""
    if not request.images:
        return 0
    return int(np.argmax(request.prompt_ids == image_token_id))


class PrefixCache:
    """Computed beginnings of prompts: full pages are shared, the last partial page is copied.

    A system prompt rarely fills its last page, so that page cannot be shared as it is: behind the
    text it holds other tokens. A sequence gets a copy of its own and overwrites them. The pages
    that are copied from are kept by this cache; all others by the pool.
    """

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        # text: its last page, and the step that fills it; least recently used first
        self._partial: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    def __len__(self) -> int:
        """Count the pages that it keeps."""
        return len(self._partial)

    def find_copy(self, sequence: Sequence, num_shared: int, step_number: int) -> PageCopy | None:
        """Return the page that has the rest of a sequence's shared text, and where to copy it to.

        Args:
            sequence: One that is admitted, with its page table.
            num_shared: Pages at the beginning of its table that it shares.
            step_number: Only what an earlier step filled can be copied.
        """
        rest = sequence.shared_text - num_shared * self._pool.page_size
        if not 0 < rest < self._pool.page_size:
            return None
        text = _shared_text(sequence)
        entry = self._partial.get(text)
        if entry is None or entry[1] >= step_number:
            return None
        self._partial.move_to_end(text)
        return entry[0], sequence.page_table[num_shared]

    def add(self, sequence: Sequence, start: int, end: int, step_number: int) -> None:
        """Let others share what a step computes.

        Args:
            sequence: Whose prompt it is.
            start: First token that the step computes.
            end: The last one, exclusive.
            step_number: Of the step.
        """
        size = self._pool.page_size
        for page in range(start // size, min(end // size, len(sequence.page_keys))):
            self._pool.register(sequence.page_table[page], sequence.page_keys[page])
        if start < sequence.shared_text <= end and sequence.shared_text % size:
            page = sequence.page_table[sequence.shared_text // size]
            self._keep(_shared_text(sequence), page, step_number)

    def clear(self) -> bool:
        """Let go of the partial pages; return whether there were any."""
        had_some = bool(self._partial)
        while self._partial:
            self._drop_oldest()
        return had_some

    def forget(self) -> None:
        """Share nothing that was computed so far: its content cannot be trusted."""
        self.clear()
        self._pool.forget()

    def _keep(self, text: bytes, page: int, step_number: int) -> None:
        if text in self._partial:
            return
        self._pool.hold(page)
        self._partial[text] = (page, step_number)
        while len(self._partial) > _MOST_PARTIAL_PAGES:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, (page, _) = self._partial.popitem(last=False)
        self._pool.drop(page)


def _shared_text(sequence: Sequence) -> bytes:
    return sequence.token_ids[: sequence.shared_text].tobytes()
