"""Which beginnings of prompts are alike: keys of pages, and the text before the first picture.

Letters: ``T`` prompt tokens.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np

from dsvl_pipeline.engine.schedule.pages import PagePool
from dsvl_pipeline.records import Request

_KEY_BYTES = 16
# Different system prompts that are remembered at once; a job has one, rarely a few.
_MOST_TAILS = 8


def page_keys(request: Request, image_token_id: int, page_size: int) -> tuple[bytes, ...]:
    """Return a key for each full page of a prompt: equal keys, equal keys and values.

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


class Tails:
    """The last, unfinished page of a shared text, to be copied into a page of one's own.

    A system prompt rarely fills a page, so its pages cannot be shared as they are. The page holds
    other tokens behind those of the text: a copy overwrites them.
    """

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._entries: OrderedDict[bytes, tuple[int, int]] = OrderedDict()  # key: page, step

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, text: bytes, step: int) -> int | None:
        """Return the page to copy, if a step before this one filled it."""
        entry = self._entries.get(text)
        if entry is None or entry[1] >= step:
            return None
        self._entries.move_to_end(text)
        return entry[0]

    def add(self, text: bytes, page: int, step: int) -> None:
        """Remember a page that this step fills; it is kept until other texts take its place."""
        if text in self._entries:
            return
        self._pool.hold(page)
        self._entries[text] = (page, step)
        while len(self._entries) > _MOST_TAILS:
            self._drop_oldest()

    def clear(self) -> bool:
        """Let go of all pages; return whether there were any."""
        had_some = bool(self._entries)
        while self._entries:
            self._drop_oldest()
        return had_some

    def _drop_oldest(self) -> None:
        _, (page, _) = self._entries.popitem(last=False)
        self._pool.drop(page)
