"""A profile of the running engine: the trace as a file, and the device's time by kernel."""

from __future__ import annotations

import gzip
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine_run import EngineRun
from benchmarks.workloads import Workload, make_requests

# Lengths differ, so that prefill and decode alternate as in the steady state: captions of equal
# length all end together, and 20 steps would show nothing but the one or the other.
PROFILED = Workload(name="profile", num_requests=640, new_tokens=512, is_mixed=True)
_NUM_STEPS = 60
_NUM_SHOWN = 25
_DEVICE_EVENTS = ("kernel", "gpu_memcpy", "gpu_memset")


def profile_steps(run: EngineRun, folder: Path) -> dict[str, Any]:
    """Trace some steps in the middle of a run of its own.

    Args:
        run: Its engine is warm.
        folder: Gets ``<precision>.json.gz`` for chrome://tracing or Perfetto.

    Returns:
        The device's busy share of the traced time and its milliseconds by kernel.
    """
    workload = run.setup.scaled(PROFILED)
    engine = run.engine()
    requests = make_requests(workload, run.setup.shape)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if run.setup.is_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    profiler = torch.profiler.profile(activities=activities)
    for request in requests:
        engine.submit(request)
    num_done = 0
    while num_done < len(requests) * 0.4:
        num_done += len(engine.poll(1.0))
    profiler.start()
    before = after = engine.stats()
    while after["steps"] < before["steps"] + _NUM_STEPS and num_done < len(requests):
        num_done += len(engine.poll(0.005))
        after = engine.stats()
    if run.setup.is_cuda:
        torch.cuda.synchronize()
    profiler.stop()
    deadline = time.monotonic() + 120
    while num_done < len(requests) and time.monotonic() < deadline:
        num_done += len(engine.poll(1.0))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run.precision}.json.gz"
    profiler.export_chrome_trace(str(path))
    counted = ("steps", "prompt_tokens", "new_tokens", "images_encoded")
    return summarise(path) | {name: after[name] - before[name] for name in counted}


def summarise(path: Path) -> dict[str, Any]:
    """Read a trace: busy share, and milliseconds, calls and share by kernel, longest first."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    found = [event for event in events if event.get("cat") in _DEVICE_EVENTS]
    milliseconds: defaultdict[str, float] = defaultdict(float)
    calls: defaultdict[str, int] = defaultdict(int)
    for event in found:
        milliseconds[event["name"]] += event["dur"] / 1000
        calls[event["name"]] += 1
    total = sum(milliseconds.values())
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in found)
    covered, end = 0.0, 0.0
    for start, stop in spans:
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    window = end - spans[0][0] if spans else 0.0
    return {
        "window_ms": window / 1000,
        "busy_share": covered / window if window else None,
        "kernels": [
            {"name": name, "ms": ms, "calls": calls[name], "share": ms / total}
            for name, ms in sorted(milliseconds.items(), key=lambda item: -item[1])
        ][:_NUM_SHOWN],
    }


def print_kernels(precision: str, profile: dict[str, Any]) -> None:
    """Show the device's time by kernel."""
    share = profile["busy_share"]
    print(
        f"\n{precision}: {profile['window_ms']:.0f} ms with {profile['steps']:.0f} steps, "
        f"{profile['prompt_tokens']:.0f} prompt tokens, {profile['images_encoded']:.0f} images, "
        f"{profile['new_tokens']:.0f} new tokens"
    )
    print(f"device busy {share:.1%}" if share is not None else "no device events (CPU run)")
    print(f"{'ms':>9s} {'share':>6s} {'calls':>6s} {'us each':>8s}  kernel")
    for kernel in profile["kernels"]:
        each = 1000 * kernel["ms"] / kernel["calls"]
        print(
            f"{kernel['ms']:9.2f} {kernel['share']:6.1%} {kernel['calls']:6d} {each:8.1f}  "
            f"{kernel['name'][:110]}"
        )
    print(flush=True)
