"""Several engines at once, one process and one GPU each: does any slow another down?"""

from __future__ import annotations

import os
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from queue import Empty
from typing import Any

from benchmarks.engine_run import EngineRun, Setup
from benchmarks.workloads import CAPTIONS, make_requests

_LIMIT_S = 420.0  # building a model, warming up, and captions twice


def measure(setup: Setup, precision: str, num_devices: int) -> dict[str, Any]:
    """Run captions on the first GPU alone, then on all of them, started together.

    Returns:
        Images per second alone and together, and the latter's shares of the former.

    Raises:
        RuntimeError: A process failed or took too long.
    """
    context = get_context("spawn")
    barrier = context.Barrier(num_devices)
    answers = context.Queue()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(num_devices)]
    processes = []
    for number in range(num_devices):
        os.environ["CUDA_VISIBLE_DEVICES"] = names[number]  # read when the child imports torch
        process = context.Process(
            target=_child, args=(number, setup, precision, barrier, answers), daemon=True
        )
        process.start()
        processes.append(process)
    if visible is None:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    alone, together = 0.0, [0.0] * num_devices
    try:
        for _ in range(num_devices + 1):
            number, what, rate = answers.get(timeout=_LIMIT_S)
            if what == "failed":
                raise RuntimeError(f"the engine on GPU {number} failed: {rate}")
            print(f"  {precision}, GPU {number} {what}: {rate:.2f} images/s", flush=True)
            if what == "alone":
                alone = rate
            else:
                together[number] = rate
    except Empty:
        raise RuntimeError(f"no figure came within {_LIMIT_S:.0f} s") from None
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    shares = [rate / alone for rate in together]
    print(f"{precision}: each of {num_devices} has {min(shares):.1%} of one alone", flush=True)
    return {"alone": alone, "together": together, "shares": shares}


def _child(number: int, setup: Setup, precision: str, barrier: Barrier, answers: Any) -> None:
    try:
        run = EngineRun(setup, precision)
        run.engine()
        make_requests(setup.scaled(CAPTIONS), setup.shape)  # makes the block of noise
        barrier.wait(_LIMIT_S)
        if number == 0:
            answers.put((number, "alone", run.measure(CAPTIONS)["images_per_s"]))
        barrier.wait(_LIMIT_S)
        # by another name they have other pictures: the engine may remember the last ones
        again = run.measure(replace(CAPTIONS, name="captions-again"))
        answers.put((number, "together", again["images_per_s"]))
        barrier.wait(_LIMIT_S)
    except Exception as error:
        answers.put((number, "failed", f"{type(error).__name__}: {error}"))
        barrier.abort()
