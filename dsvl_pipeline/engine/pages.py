"""Who owns which KV page. Bookkeeping only: the keys and values lie in `ops.attention.KVPages`."""

from __future__ import annotations

from dsvl_pipeline.errors import CapacityError


class PagePool:
    """Hand out pages of ``page_size`` tokens and take them back.

    A page table is the list of a sequence's pages in position order; the sequence keeps it, only
    the pool changes it.
    """

    def __init__(self, *, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        # Taken from the end: the page freed last is the one most likely still in a cache.
        self._free = list(range(num_pages - 1, -1, -1))

    @property
    def num_used(self) -> int:
        return self.num_pages - len(self._free)

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
        self.check_fits(num_tokens)
        missing = self.pages_for(num_tokens) - len(page_table)
        if missing > len(self._free):
            return False
        page_table.extend(self._free.pop() for _ in range(missing))
        return True

    def release(self, page_table: list[int]) -> None:
        """Take all pages of a table back and empty it."""
        self._free.extend(reversed(page_table))
        page_table.clear()
