"""A whole job on one GPU (Ray, JPEGs, Parquet) against the engine alone on the same pictures.

    python -m benchmarks.pipeline_gpu [--rows 3072] [--precision bf16] [--out FILE]
    python -m benchmarks.pipeline_gpu --tiny    # on a CPU, to try the script out

A checkpoint of the 7B hybrid's shape with random weights is written to local disk, and distinct
JPEGs of 1600 x 1200 beside it. First the engine answers requests that were prepared beforehand,
in a process of its own; then `run_job` answers one row per JPEG. Both rates are those of the
steady state: the slope of a line through the completions between 20 % and 90 % of them, so that
starting Ray, loading weights, filling the batch and draining it do not count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.job_inputs import draw, write_checkpoint
from benchmarks.results import gpu_versions, write_results
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.processor.processor import Processor
from dsvl_pipeline.records import Request, SamplingParams
from dsvl_pipeline.run.progress import Progress
from dsvl_pipeline.run.run import run_job

Figures = dict[str, Any]
QUESTION = "Describe the image."
STEADY = (0.2, 0.9)


def main() -> None:
    """Measure and print."""
    args = _arguments()
    figures: Figures = {"rows": args.rows, "precision": args.precision, "settings": args.set}
    folder = Path(args.folder or tempfile.mkdtemp())
    gpu: Figures | None = None

    def note(name: str, measure: Callable[..., Figures], *arguments: Any) -> None:
        """Measure in a fresh process, whose GPU memory is free again when it ends."""
        if args.tiny:
            _keep(name, measure(*arguments))
            return
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            _keep(name, pool.submit(measure, *arguments).result())

    def _keep(name: str, found: Figures) -> None:
        figures[name] = found
        print(f"{name}: {json.dumps(found, default=float)}", flush=True)
        device = gpu["name"].split()[-1].lower() if gpu else None
        if args.out or not args.tiny:
            write_results(
                "pipeline-gpu",
                figures,
                device=device,
                gpu=gpu,
                path=args.out,
                is_partial=name != "share_of_engine",
            )

    try:
        if not args.tiny:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                gpu = pool.submit(gpu_versions).result()
        note("checkpoint", write_checkpoint, folder / "checkpoint", args.tiny)
        _keep("jpegs", draw(folder / "images", args.rows, tiny=args.tiny))
        settings = engine_settings(args.precision, args.set)
        note("alone", measure_alone, folder, settings, args.alone, args.tiny)
        _keep("pipeline", measure_job(folder, settings, tiny=args.tiny))
        alone, pipeline = figures["alone"]["rows_per_s"], figures["pipeline"]["rows_per_s"]
        _keep("share_of_engine", {"share": pipeline / alone})
        print(f"engine alone {alone:.2f} rows/s, pipeline {pipeline:.2f}: {pipeline / alone:.1%}")
        print(f"GPU busy {figures['pipeline']['gpu_busy']} in the steady state")
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def measure_alone(folder: Path, settings: Mapping[str, Any], rows: int, tiny: bool) -> Figures:
    """Answer the first ``rows`` JPEGs without Ray; pictures are prepared before the clock runs."""
    began = time.perf_counter()
    from dsvl_pipeline.engine.engine import ModelEngine
    from dsvl_pipeline.records import EngineConfig

    engine = ModelEngine.from_checkpoint(
        folder / "checkpoint",
        EngineConfig(**settings),
        dtype="auto",
        device="cpu" if tiny else "cuda",
    )
    requests = _requests(folder, 8, tiny, name="first")
    engine.generate(requests[:1])
    first_answer_s = time.perf_counter() - began
    engine.generate(_requests(folder, min(rows, 640), tiny, name="warm-up"))
    began = time.perf_counter()
    requests = _requests(folder, rows, tiny, name="row")
    prepared_s = time.perf_counter() - began
    before = engine.stats()
    began = time.perf_counter()
    for request in requests:
        engine.submit(request)
    times: list[float] = []
    while len(times) < len(requests):
        ready = engine.poll(1.0)
        times += [time.perf_counter() - began] * len(ready)
    after = engine.stats()
    engine.close()
    return {
        "rows": len(requests),
        "rows_per_s": steady_rate([(at, number + 1) for number, at in enumerate(times)]),
        "seconds": times[-1],
        "first_answer_s": first_answer_s,
        "preparing_s": prepared_s,
        "prompt_tokens": len(requests[0].prompt_ids),
        "stats": {name: value - before.get(name, 0.0) for name, value in after.items()},
    }


def measure_job(folder: Path, settings: Mapping[str, Any], *, tiny: bool) -> Figures:
    """Run the job and watch it and the GPU."""
    job = JobConfig.model_validate(
        {
            "name": "benchmark",
            "input": {"images": f"{folder / 'images'}/*.jpg"},
            "prompts": [{"id": "caption", "text": QUESTION}],
            "model": {"checkpoint": str(folder / "checkpoint")},
            "generation": generation(tiny),
            "output": {"uri": str(folder / "table")},
            "engine": dict(settings),
            "cluster": {"cpus_per_engine": 0.5},
        }
    )
    shutil.rmtree(folder / "table", ignore_errors=True)
    seen: list[tuple[float, int]] = []
    busy: list[tuple[float, float]] = []

    def watch(progress: Progress) -> None:
        if not seen or progress.rows_done > seen[-1][1]:
            seen.append((time.perf_counter(), progress.rows_done))

    began = time.perf_counter()
    with _watching_gpu(busy):
        summary = run_job(job, on_progress=watch)
    if summary.errors or not summary.rows_new:
        raise RuntimeError(f"the job has error rows: {summary}")
    start, end = _steady_span(seen)
    steady = [percent for at, percent in busy if start <= at <= end]
    first = next(at for at, rows_done in seen if rows_done)
    return {
        "rows": summary.rows_new,
        "rows_per_s": steady_rate(seen),
        "seconds": summary.seconds,
        "first_rows_s": first - began,
        "steady_s": end - start,
        "gpu_busy": statistics.mean(steady) / 100 if steady else None,
        "gpu_samples": len(steady),
        "gpu_idle_samples": sum(percent < 50 for percent in steady),
    }


def steady_rate(seen: Sequence[tuple[float, int]]) -> float:
    """Fit a line to (seconds, done) in the steady state and return its slope."""
    start, end = _steady_span(seen)
    points = np.array([point for point in seen if start <= point[0] <= end], dtype=np.float64)
    if len(points) < 2 or points[0, 0] == points[-1, 0]:  # tiny runs
        return seen[-1][1] / max(seen[-1][0] - seen[0][0], 1e-9)
    slope: float = np.polyfit(points[:, 0] - points[0, 0], points[:, 1], 1)[0]
    return slope


def engine_settings(precision: str, overrides: Sequence[str]) -> Figures:
    """The ``engine:`` section of the job."""
    settings: Figures = {"kind": "model"}
    if precision != "bf16":
        settings["quantization"] = precision
    for text in overrides:
        name, _, value = text.partition("=")
        settings[name] = json.loads(value)
    return settings


def generation(tiny: bool) -> Figures:
    """The ``generation:`` section: every row gets all its tokens."""
    return {"max_new_tokens": 8 if tiny else 128, "ignore_eos": True}


def _steady_span(seen: Sequence[tuple[float, int]]) -> tuple[float, float]:
    total = seen[-1][1]
    first, last = (share * total for share in STEADY)
    start = next(at for at, count in seen if count >= first)
    end = next(at for at, count in seen if count >= last)
    return start, end


def _requests(folder: Path, count: int, tiny: bool, *, name: str) -> list[Request]:
    """Make requests of the first JPEGs; digests of the name too, so that none is known already."""
    processor = Processor.from_pretrained(folder / "checkpoint")
    sampling = SamplingParams(**generation(tiny))
    paths = sorted((folder / "images").glob("*.jpg"))[:count]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(partial(_request, processor, sampling, name), paths))


def _request(processor: Processor, sampling: SamplingParams, name: str, path: Path) -> Request:
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    # A comment behind the end of the picture: other bytes, the same pixels.
    data = path.read_bytes() + name.encode()
    return processor.request(
        f"{name}-{path.name}", [{"role": "user", "content": content}], [data], sampling
    )


@contextlib.contextmanager
def _watching_gpu(into: list[tuple[float, float]]) -> Iterator[None]:
    """Sample the share of time in which any kernel ran, twice a second."""
    # It numbers all GPUs of the machine, whatever this process sees of them.
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    command = ["nvidia-smi", f"--id={gpu}", "--query-gpu=utilization.gpu"]
    command += ["--format=csv,noheader,nounits"]
    try:
        process = subprocess.Popen([*command, "-lms", "500"], stdout=subprocess.PIPE, text=True)
    except OSError:  # no GPU
        yield
        return

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                into.append((time.perf_counter(), float(line.strip())))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        process.terminate()
        process.wait()
        thread.join(5)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, help="JPEGs of the job (3072)")
    parser.add_argument("--alone", type=int, help="requests of the engine alone (1536)")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="engine's")
    parser.add_argument("--folder", type=Path, help="kept, and its checkpoint used again")
    parser.add_argument("--out", type=Path, help="file or directory for the results")
    parser.add_argument("--tiny", action="store_true", help="on the CPU; writes only with --out")
    args = parser.parse_args()
    args.rows = args.rows or (48 if args.tiny else 3072)
    args.alone = min(args.alone or (24 if args.tiny else 1536), args.rows)
    return args


if __name__ == "__main__":
    main()
