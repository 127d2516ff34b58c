"""Between host and device without waiting for the work that is queued there."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return the array on the device; the copy is queued on the current stream.

    Args:
        array: Not changed afterwards: on a CPU the tensor shares its memory.
        device: Where to.
    """
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    # From pageable memory the driver would copy only once everything queued before is done.
    return tensor.pin_memory().to(device, non_blocking=True)


class Download:
    """A tensor on its way to the host."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = tensor
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            # Blocking: a spinning thread would take a core from preprocessing.
            self._event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> list[Any]:
        """Wait for it."""
        if self._event is not None:
            self._event.synchronize()
        values: list[Any] = self._host.tolist()
        return values
