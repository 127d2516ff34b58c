"""Timing events: when the device reached a point of its queue."""

from __future__ import annotations

import time

import torch


class TimingEvent:
    """A point in the current stream; on a CPU, a moment."""

    def __init__(self, event: torch.cuda.Event | None) -> None:
        self._event = event
        self._recorded_s = time.perf_counter()

    def seconds_until(self, later: TimingEvent) -> float:
        """Return the device's time between two events, both of them past."""
        if self._event is None or later._event is None:
            return later._recorded_s - self._recorded_s
        return float(self._event.elapsed_time(later._event)) / 1000


def record_event(device: torch.device) -> TimingEvent:
    """Record an event behind what is queued on the device."""
    if device.type != "cuda":
        return TimingEvent(None)
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return TimingEvent(event)
