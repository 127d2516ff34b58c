"""The engine against `transformers.generate` and the card's limits, in one run on one GPU.

    python -m benchmarks.engine [--workloads captions,mixed] [--precision bf16,fp8]
        [--no-transformers] [--no-static] [--profile DIR] [--requests 1024] [--out FILE]
    python -m benchmarks.engine --devices 2     # one engine for each GPU, alone and together
    python -m benchmarks.engine --tiny          # the whole script on a CPU, in a few seconds

The 7B hybrid's shape with seeded random weights; uint8 pictures in host memory in, token ids out;
greedy, without an end of sequence. Every workload is submitted at once and timed from the first
submission to the last completion, on an engine that a smaller run has warmed up. What is known is
printed and written at once; a workload that fails is noted and the next one runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import devices
from benchmarks.engine_run import EngineRun, Figures, Setup
from benchmarks.kernel_times import print_kernels, profile_steps
from benchmarks.results import gpu_versions, write_results
from benchmarks.roofline import Ceilings, measure_ceilings, request_floor, vision_flops
from benchmarks.shapes import FULL, TINY, read_shape
from benchmarks.workloads import (
    CAPTIONS,
    NUM_QUESTION_IDS,
    NUM_SYSTEM_IDS,
    WORKLOADS,
    Workload,
)

VISION = "vision"
VISION_FLOOR, VISION_AIM = 280.0, 400.0
_BASELINE_LIMIT_S = 240


def main() -> None:
    """Measure and print."""
    args = _arguments()
    setup = _setup(args)
    report = Report(setup, args)
    if args.devices > 1:
        names = [name.strip() for name in args.precision.split(",")]
        report.figures["devices"] = {}
        for name in names:
            try:
                report.figures["devices"][name] = devices.measure(setup, name, args.devices)
            except RuntimeError as error:
                print(error, flush=True)
                report.figures["failed"][f"{name} devices"] = str(error)
            report.write(is_partial=True)
        report.write()
        return
    report.ceilings = measure_ceilings(setup.device)
    report.figures["ceilings"] = asdict(report.ceilings)
    print("ceilings:", {name: f"{value:.3g}" for name, value in asdict(report.ceilings).items()})
    if args.transformers:
        report.figures["transformers"] = _baseline(args)
        report.write(is_partial=True)
    for precision in args.precision.split(","):
        report.attempt(precision, "all", partial(_measure, precision, args, setup, report))
    report.print_table()
    report.write()


class Report:
    """The figures so far, their table, and the file that holds them."""

    def __init__(self, setup: Setup, args: argparse.Namespace) -> None:
        self.path: Path | None = args.out
        self.ceilings: Ceilings | None = None
        self.figures: Figures = {
            "command": _without_out(sys.argv[1:]),
            "rows": {},
            "failed": {},
            "settings": dict(setup.settings),
        }
        self._setup = setup
        self._began = time.perf_counter()
        self._limit_s: float = args.limit_s
        self._is_tiny: bool = args.tiny

    def attempt(self, precision: str, name: str, measure: Callable[[], Figures | None]) -> bool:
        """Measure one thing; print and write it, or why there is nothing. Return whether it ran."""
        if time.perf_counter() - self._began > self._limit_s:
            self.figures["failed"][f"{precision} {name}"] = "not begun: the time was up"
            return True
        try:
            found = measure()
        except Exception as error:  # the next workload may run, and time on the card is dear
            traceback.print_exc()
            self.figures["failed"][f"{precision} {name}"] = f"{type(error).__name__}: {error}"[:500]
            self.write(is_partial=True)
            return False
        if found is not None:
            key = f"{precision} {name}"
            self.figures["rows"][key] = found | self._judge(precision, name, found)
            if len(self.figures["rows"]) == 1:
                print(_HEADER)
            print(_line(key, self.figures["rows"][key]), flush=True)
            self.write(is_partial=True)
        return True

    def print_table(self) -> None:
        """Show all rows again, and what failed."""
        print(f"\n{_HEADER}")
        for key, row in self.figures["rows"].items():
            print(_line(key, row))
        for key, message in self.figures["failed"].items():
            print(f"{key}: {message}")
        print(f"{time.perf_counter() - self._began:.0f} s in all", flush=True)

    def write(self, *, is_partial: bool = False) -> None:
        if self._is_tiny and self.path is None:
            return
        gpu = gpu_versions() if self._setup.is_cuda else None
        device = gpu["name"].split()[-1].lower() if gpu else None
        self.path = write_results(
            "engine", self.figures, device=device, gpu=gpu, path=self.path, is_partial=is_partial
        )

    def _judge(self, precision: str, name: str, found: Figures) -> Figures:
        """Compare with transformers, the card's limit and what issue 4 asks for."""
        rate = found["images_per_s"]
        column = 1 if precision == "fp8" else 0
        if name == VISION:
            assert self.ceilings is not None
            limit = self.ceilings.bf16_flops / vision_flops(self._setup.shape.model)
            return {"roofline_share": rate / limit, "floor": VISION_FLOOR, "aim": VISION_AIM}
        workload = WORKLOADS[name]
        captions = self.figures["rows"].get(f"{precision} {CAPTIONS.name}", {}).get("images_per_s")
        dynamic = self._baseline_rate(workload)
        static = self.figures.get("transformers", {}).get("static", {}).get("images_per_s")
        return {
            "roofline_share": rate * self._least_s(workload, precision),
            "to_dynamic": rate / dynamic if dynamic else None,
            "to_static": rate / static if static and not workload.is_mixed else None,
            "floor": _absolute(workload.floors[column], captions),
            "aim": _absolute(workload.aims[column], captions),
        }

    def _baseline_rate(self, workload: Workload) -> float | None:
        """Images per second of the best dynamic-cache ``generate``, if it was measured."""
        baseline = self.figures.get("transformers", {})
        if workload.is_mixed:
            rate: float | None = baseline.get("mixed", {}).get("images_per_s")
            return rate
        if workload.new_tokens != CAPTIONS.new_tokens:
            return None
        dynamic = baseline.get("dynamic", {}).values()
        return max((figure["images_per_s"] for figure in dynamic), default=None)

    def _least_s(self, workload: Workload, precision: str) -> float:
        assert self.ceilings is not None
        lengths = self._setup.scaled(workload).lengths()
        model = self._setup.shape.model
        return request_floor(
            model,
            self.ceilings,
            num_prompt_tokens=model.num_image_tokens + NUM_SYSTEM_IDS + NUM_QUESTION_IDS,
            num_new_tokens=float(lengths.mean()),
            precision=precision,
            num_prompts=workload.prompts_per_image,
            num_own_tokens=NUM_QUESTION_IDS if workload.prompts_per_image > 1 else 0,
        ).seconds


def _measure(
    precision: str, args: argparse.Namespace, setup: Setup, report: Report
) -> Figures | None:
    """Run every workload of one precision."""
    run = EngineRun(setup, precision)
    try:
        names = args.workloads.split(",")
        if VISION in names and precision != "fp8":  # the towers are the same
            report.attempt(precision, VISION, run.measure_vision)
        workloads = [WORKLOADS[name] for name in names if name != VISION]
        for workload in workloads:
            if not workload.has_drafts:
                _attempt(run, workload, report)
        if args.profile:
            report.figures.setdefault("profile", {})
            report.attempt(precision, "profile", lambda: _profile(run, args.profile, report))
        # an engine that accepts what is wrong is another one
        for workload in workloads:
            if workload.has_drafts:
                _attempt(run, workload, report)
    finally:
        run.close()
    return None


def _attempt(run: EngineRun, workload: Workload, report: Report) -> None:
    if not report.attempt(run.precision, workload.name, lambda: run.measure(workload)):
        run.stop_engine()  # whatever state it is in


def _profile(run: EngineRun, folder: Path, report: Report) -> None:
    found = profile_steps(run, folder)
    report.figures["profile"][run.precision] = found
    print_kernels(run.precision, found)


def _baseline(args: argparse.Namespace) -> Figures:
    """Run transformers in a process of its own, and read what it has written when it ends."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "figures.json")
        began = time.perf_counter()
        code = _run_baseline(args, path)
        found: Figures = json.loads(path.read_text()) if path.exists() else {}
    seconds = time.perf_counter() - began
    print(f"transformers: {seconds:.0f} s, exit code {code}", flush=True)
    return found | {"exit_code": code, "took_s": seconds}


def _run_baseline(args: argparse.Namespace, path: Path) -> int | None:
    command = [sys.executable, "-m", "benchmarks.transformers_baseline", "--out", str(path)]
    command += ["--tiny", "--batches", "2,4"] if args.tiny else ["--batches", args.batches]
    if args.static and not args.tiny:
        command.append("--static")
    if "mixed" in args.workloads.split(","):
        command.append("--mixed")
    try:
        return subprocess.run(command, timeout=_BASELINE_LIMIT_S, check=False).returncode
    except subprocess.TimeoutExpired:
        return None


_HEADER = (
    f"{'':18s} {'img/s':>7s} {'tok/s':>7s} {'floor':>6s} {'aim':>6s} {'x dyn':>6s} {'x stat':>6s} "
    f"{'roof':>6s} {'wall s':>7s} {'vision':>7s} {'prefil':>7s} {'decode':>7s} {'host':>6s} "
    f"{'run':>5s} {'occup':>5s} {'preem':>5s} {'GiB':>6s} {'dist':>5s}"
)


def _line(key: str, row: Figures) -> str:
    stats = row.get("stats", {})

    def cell(value: float | None, width: int, digits: int = 1, percent: bool = False) -> str:
        if value is None:
            return "-".rjust(width)
        return f"{value:{width}.{digits}{'%' if percent else 'f'}}"

    cells = [
        f"{key:18s}",
        cell(row["images_per_s"], 7, 2),
        cell(row.get("tokens_per_s"), 7, 0),
        cell(row.get("floor"), 6),
        cell(row.get("aim"), 6),
        cell(row.get("to_dynamic"), 6, 2),
        cell(row.get("to_static"), 6, 2),
        cell(row.get("roofline_share"), 6, 1, percent=True),
        cell(row.get("seconds"), 7),
        cell(stats.get("vision_s"), 7, 2),
        cell(stats.get("prefill_s"), 7, 2),
        cell(stats.get("decode_s"), 7, 2),
        cell(stats.get("host_s"), 6, 2),
        cell(row.get("mean_running"), 5, 0),
        cell(stats.get("occupancy"), 5, 2),
        cell(stats.get("preemptions"), 5, 0),
        cell(row.get("peak_gib"), 6),
        cell(row.get("distinct_share"), 5, 2),
    ]
    return " ".join(cells)


def _absolute(wanted: float, captions: float | None) -> float | None:
    """A figure to be reached; small ones are multiples of the captions' rate."""
    if not wanted:
        return None
    if wanted > 3:
        return wanted
    return wanted * captions if captions else None


def _without_out(arguments: list[str]) -> list[str]:
    """The results need not say where they lie."""
    if "--out" not in arguments:
        return arguments
    place = arguments.index("--out")
    return arguments[:place] + arguments[place + 2 :]


def _setup(args: argparse.Namespace) -> Setup:
    count = args.requests or (8 if args.tiny else CAPTIONS.num_requests)
    return Setup(
        shape=read_shape(TINY if args.tiny else FULL),
        device="cpu" if args.tiny else args.device,
        settings=dict(_setting(text) for text in args.set),
        share=count / CAPTIONS.num_requests,
        tokens=1 / 16 if args.tiny else 1.0,
    )


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add, toggle = parser.add_argument, argparse.BooleanOptionalAction
    add("--workloads", default=",".join([VISION, *WORKLOADS]))
    add("--precision", default="bf16,fp8")
    add("--transformers", action=toggle, default=True, help="measure generate first")
    add("--static", action=toggle, default=True, help="its static cache as well")
    add("--batches", default="64,32,96", help="generate's batch sizes with the dynamic cache")
    add("--profile", type=Path, metavar="DIR", help="also trace 60 steps of mixed lengths")
    add("--requests", type=int, help="of captions (1024); the other workloads shrink alike")
    add("--devices", type=int, default=1, help="one engine each, captions only")
    add("--device", default="cuda")
    add("--out", type=Path, help="file or directory for the results")
    add("--limit-s", type=float, default=1e9, help="begin nothing after so many seconds")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="a field of EngineConfig")
    add("--tiny", action="store_true", help="tiny shape on the CPU; writes only with --out")
    args = parser.parse_args(argv)
    if args.tiny and args.precision == parser.get_default("precision"):
        args.precision = "bf16"  # the CPU has no fp8
    unknown = set(args.workloads.split(",")) - {VISION, *WORKLOADS}
    if unknown:
        parser.error(f"unknown workloads {sorted(unknown)}; there are {[VISION, *WORKLOADS]}")
    if not args.tiny and not torch.cuda.is_available() and args.devices == 1:
        parser.error("there is no GPU; --tiny tries the script out on a CPU")
    return args


if __name__ == "__main__":
    main()
