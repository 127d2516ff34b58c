"""Who owns which KV page. Bookkeeping only: the keys and values lie in `ops.values.KVPages`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Seq

from dsvl_pipeline.errors import CapacityError


class PagePool:
    """Hand out pages of ``page_size`` tokens and take them back; share those of equal content.

    A page table is the list of a sequence's pages in position order; the sequence keeps it, only
    the pool changes it. A full page of a prompt may be registered under a key that stands for all
    tokens and pictures up to its end: whoever needs the same then shares it, also after its last
    user is gone, as long as nobody else needed the memory.
    """

    def __init__(self, *, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        # Taken from the end: the page freed last is the one most likely still in a cache.
        self._free = list(range(num_pages - 1, -1, -1))
        self._num_users = [0] * num_pages
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        # Registered pages without users, least recently used first.
        self._spare: OrderedDict[int, None] = OrderedDict()

    @property
    def num_used(self) -> int:
        return self.num_pages - self.num_free

    @property
    def num_free(self) -> int:
        return len(self._free) + len(self._spare)

    def pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def check_fits(self, num_tokens: int) -> None:
        """Raise CapacityError where ``num_tokens`` would not fit even with every page free."""
        needed = self.pages_for(num_tokens)
        if needed > self.num_pages:
            raise CapacityError(
                f"a sequence of {num_tokens} tokens needs {needed} KV pages of {self.page_size} "
                f"tokens, but this engine has {self.num_pages}; raise engine.kv_cache_gib or "
                "lower generation.max_new_tokens"
            )

    def grow(self, page_table: list[int], num_tokens: int) -> bool:
        """Extend a sequence's page table until it can hold ``num_tokens`` tokens.

        All or nothing: when too few pages are free the table stays as it was, so that the
        scheduler can preempt another sequence and ask again.

        Args:
            page_table: Pages the sequence owns. Extended in place.
            num_tokens: Tokens held after the coming step, prompt and image tokens included.

        Returns:
            Whether the table is now long enough.

        Raises:
            CapacityError: It would not fit even with every page free.

        Source: paged attention, Kwon et al. 2023, arXiv:2309.06180, section 4.
        """
        missing = self.pages_for(num_tokens) - len(page_table)
        if missing <= 0:
            return True
        if missing > self.num_free:
            self.check_fits(num_tokens)
            return False
        page_table.extend(self._take() for _ in range(missing))
        return True

    def release(self, page_table: list[int]) -> None:
        """Take all pages of a table back and empty it."""
        for page in reversed(page_table):
            self.drop(page)
        page_table.clear()

    def share(self, keys: Seq[bytes]) -> list[int]:
        """Return the pages of the longest known beginning of ``keys``, with one more user each."""
        pages: list[int] = []
        for key in keys:
            page = self._page_of.get(key)
            if page is None:
                break
            self.hold(page)
            pages.append(page)
        return pages

    def register(self, page: int, key: bytes) -> None:
        """Let others share a page once the step that fills it is queued on the device."""
        if page not in self._key_of and key not in self._page_of:
            self._page_of[key] = page
            self._key_of[page] = key

    def forget(self) -> None:
        """Share nothing of what is registered so far: its content cannot be trusted."""
        self._page_of.clear()
        self._key_of.clear()
        self._free.extend(self._spare)
        self._spare.clear()

    def hold(self, page: int) -> None:
        """Add a user to a page."""
        self._spare.pop(page, None)
        self._num_users[page] += 1

    def drop(self, page: int) -> None:
        """Take a user off a page."""
        self._num_users[page] -= 1
        if not self._num_users[page]:
            if page in self._key_of:
                self._spare[page] = None
            else:
                self._free.append(page)

    def _take(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._spare.popitem(last=False)
            del self._page_of[self._key_of.pop(page)]
        self._num_users[page] = 1
        return page
