"""What an engine has done so far, and where the seconds went."""

from __future__ import annotations

from collections import Counter

from dsvl_pipeline.engine.device.runner import Launched
from dsvl_pipeline.engine.schedule.step import Decode, Prefill

_COUNTERS = (
    "steps",
    "decode_steps",
    "prompt_tokens",
    "new_tokens",
    "images_encoded",
    "drafted_tokens",
    "accepted_tokens",
    "step_downs",
)
_PHASES = ("vision", "prefill", "decode", "host")


class EngineStats:
    """Counters since the start, and seconds by phase.

    ``prompt_tokens`` counts what was prefilled, tokens recomputed after preemption included.
    ``vision_s``, ``prefill_s`` and ``decode_s`` are the device's; ``host_s`` are all of the
    engine's steps, waiting for the device included. ``occupancy`` is the mean share of lanes that
    a decode step filled.

    Attributes:
        counts: By name; others may add to them.
        seconds: By phase, likewise.
    """

    def __init__(self, *, num_lanes: int) -> None:
        self._num_lanes = num_lanes
        self.counts: Counter[str] = Counter()
        self.seconds: dict[str, float] = dict.fromkeys(_PHASES, 0.0)

    def add_step(self, launched: Launched) -> None:
        """Count a step that the device is done with."""
        forwarded = launched.forwarded
        begin, seen = forwarded.events
        self.counts.update(steps=1, images_encoded=forwarded.num_encoded)
        self.seconds["vision"] += begin.seconds_until(seen)
        seconds = seen.seconds_until(launched.end)
        match forwarded.step:
            case Prefill(chunks):
                self.counts["prompt_tokens"] += sum(chunk.end - chunk.start for chunk in chunks)
                self.seconds["prefill"] += seconds
            case Decode(chunks):
                self.counts.update(decode_steps=1, decode_rows=len(chunks))
                self.seconds["decode"] += seconds

    def as_dict(self) -> dict[str, float]:
        """Return counters, occupancy (0 to 1), and seconds as ``<phase>_s``."""
        lanes = self.counts["decode_steps"] * self._num_lanes
        return {
            **{name: float(self.counts[name]) for name in _COUNTERS},
            "occupancy": self.counts["decode_rows"] / lanes if lanes else 0.0,
            **{f"{phase}_s": seconds for phase, seconds in self.seconds.items()},
        }
