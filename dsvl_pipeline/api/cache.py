"""Keys and values of earlier tokens, kept between calls of a model's ``forward``.

Letters: ``B`` sequences, ``Hkv`` key and value heads, ``K`` tokens so far, ``D`` width of a head.

Source of the behaviour: ``DynamicCache``, transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


class DynamicCache:
    """Keys and values ``[B, Hkv, K, D]`` of every layer, as long as they are by now.

    Index and iteration give pairs (keys, values) by layer.

    Args:
        pairs: What to begin with; by default nothing.
        config: Accepted and not needed.
    """

    def __init__(self, pairs: Iterable[Pair] = (), *, config: object = None) -> None:
        del config  # layers are added as they come
        self._pairs: list[Pair] = [(keys, values) for keys, values, *_ in pairs]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> Pair:
        """Append the keys and values of new tokens, and return those of all."""
        if layer_idx == len(self._pairs):
            self._pairs.append((key_states, value_states))
        else:
            keys, values = self._pairs[layer_idx]
            keys = torch.cat([keys, key_states], dim=2)
            self._pairs[layer_idx] = keys, torch.cat([values, value_states], dim=2)
        return self._pairs[layer_idx]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many tokens a layer holds."""
        return self._pairs[layer_idx][0].shape[2] if layer_idx < len(self._pairs) else 0

    def get_max_cache_shape(self) -> int:
        """Return -1: it grows without a limit of its own."""
        return -1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put sequence ``beam_idx[i]`` in place ``i``; a beam may be continued more than once."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these sequences, ``int64[B']`` or a mask ``bool[B]``."""
        self._change(lambda states: states[indices.to(states.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence, copies side by side."""
        self._change(lambda states: states.repeat_interleave(repeats, dim=0))

    def crop(self, max_length: int) -> None:
        """Forget all but the first ``max_length`` tokens; a negative number forgets so many."""
        length = self.get_seq_length()
        kept = max_length if max_length >= 0 else max(0, length + max_length)
        if kept < length:
            self._change(lambda states: states[:, :, :kept])

    def reset(self) -> None:
        """Forget everything."""
        self._pairs.clear()

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        self._pairs = [(change(keys), change(values)) for keys, values in self._pairs]

    @property
    def is_initialized(self) -> bool:
        return bool(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __bool__(self) -> bool:
        return True  # an empty cache is one to be filled

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs)

    def __getitem__(self, layer_idx: int) -> Pair:
        return self._pairs[layer_idx]
