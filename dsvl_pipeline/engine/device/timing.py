"""When the device reached a point of its queue."""

from __future__ import annotations

import time

import torch


class Mark:
    """A point in the current stream, or a moment where there is none."""

    def __init__(self, event: torch.cuda.Event | None) -> None:
        self._event = event
        self._moment = time.perf_counter()

    def seconds_until(self, later: Mark) -> float:
        """Return the device's time between two marks, both of them past."""
        if self._event is None or later._event is None:
            return later._moment - self._moment
        return float(self._event.elapsed_time(later._event)) / 1000


def mark(device: torch.device) -> Mark:
    """Set a mark behind what is queued on the device."""
    if device.type != "cuda":
        return Mark(None)
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return Mark(event)
