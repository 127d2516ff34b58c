"""The model stage: an engine in a Ray actor, many batches at once."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import traceback
import uuid
from typing import Any

import numpy as np
import pyarrow as pa

from dsvl_pipeline import hub
from dsvl_pipeline.cluster.gate import SharedLock
from dsvl_pipeline.cluster.private_ray import num_restarts
from dsvl_pipeline.errors import EngineError
from dsvl_pipeline.records import Completion, Engine, Request, RowFailure
from dsvl_pipeline.stages.answers import output_rows
from dsvl_pipeline.stages.config import StageConfig
from dsvl_pipeline.stages.requests import batch_digest, requests_of
from dsvl_pipeline.stages.rows import without_request
from dsvl_pipeline.wording import amount

_DEATHS_TOGETHER = 2  # one is ordinary: nodes vanish


class Generate:
    """An engine in an actor: one batch a call, many calls at once.

    The engine runs in a thread of its own and a second thread delivers its completions, so that
    neither ever blocks the actor's event loop. When the engine breaks, the process ends: Ray
    then starts another and retries the batches. The ledger knows which ones were in the engine
    at how many deaths; from the second on they are asked alone, to find the row that kills.
    """

    def __init__(self, *, config: StageConfig, has_gpu: bool, ledger: Any) -> None:
        """Start the engine.

        Args:
            config: Of the job.
            has_gpu: Whether the engine is to use one.
            ledger: Handle of a `Ledger` actor.
        """
        self._config = config
        self._ledger = ledger
        self._id = uuid.uuid4().hex
        self._kv_use = 0.0
        self._lock = SharedLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[str, asyncio.Future[Completion]] = {}
        self._device, self._engine = _start_engine(config, has_gpu)
        self._started_s = time.monotonic()
        # In the place of one that died, or not.
        self._restarts = float(num_restarts() > 0)
        threading.Thread(target=self._deliver, name="completions", daemon=True).start()

    async def __call__(self, batch: pa.Table) -> pa.Table:
        self._loop = asyncio.get_running_loop()
        batch_id, requests = batch_digest(batch), requests_of(batch, self._config.job.generation)
        answers = None
        async with self._lock.shared():
            num_deaths = await self._ledger.begin.remote(self._id, batch_id)
            if num_deaths < _DEATHS_TOGETHER:
                answers = await self._answers(requests)
            else:
                await self._ledger.defer.remote(batch_id)
        if answers is None:
            async with self._lock.exclusive():
                num_deaths = await self._ledger.begin.remote(self._id, batch_id)
                answers = await self._answers_of_suspects(batch_id, requests, num_deaths)
        await self._ledger.end.remote(self._id, batch_id, self._stats())
        rows = without_request(batch)
        return output_rows(rows, answers, self._config, self._device, num_deaths + 1)

    async def _answers(self, requests: dict[int, Request]) -> dict[int, Completion]:
        futures = {index: self._ask(request) for index, request in requests.items()}
        await asyncio.gather(*futures.values())
        return {index: future.result() for index, future in futures.items()}

    async def _answers_of_suspects(
        self, batch_id: bytes, requests: dict[int, Request], num_deaths: int
    ) -> dict[int, Completion]:
        """Answer a batch that was in the engine at every one of several deaths.

        First it is alone with the engine. Where that dies again, it is asked row by row, and a
        row that was alone with a dying engine is not asked any more.
        """
        if num_deaths <= _DEATHS_TOGETHER and len(requests) > 1:
            return await self._answers(requests)
        answers: dict[int, Completion] = {}
        for index, request in requests.items():
            row = batch_id + request.request_id.encode()
            if await self._ledger.begin.remote(self._id, row):
                answers[index] = _killed(request, num_deaths)
            else:
                answers |= await self._answers({index: request})
            await self._ledger.end.remote(self._id, row, self._stats())
        return answers

    def _stats(self) -> dict[str, float]:
        stats = self._engine.stats()
        if pages := stats.get("kv_pages_total"):
            self._kv_use = max(self._kv_use, stats["kv_pages_used"] / pages)
            stats["kv_use"] = self._kv_use
        return stats | {"up_s": time.monotonic() - self._started_s, "restarts": self._restarts}

    def _ask(self, request: Request) -> asyncio.Future[Completion]:
        future = self._waiting.get(request.request_id)
        if future is None:  # else: a retry of a call whose first attempt still runs
            future = self._waiting[request.request_id] = asyncio.Future()
            self._engine.submit(request)
        return future

    def _deliver(self) -> None:
        """Hand completions to the calls that wait for them; end the process with the engine."""
        while True:
            try:
                completions = self._engine.poll(1.0)
            except BaseException as error:
                # Whatever it was: nobody else waits for answers, so the batches would for ever.
                if not isinstance(error, EngineError):
                    traceback.print_exc()
                what = f"{type(error).__name__}: {error}"
                print(f"engine failed, replacing its process: {what}", flush=True)  # noqa: T201
                os._exit(1)
            for completion in completions:
                assert self._loop is not None, "a completion before any request"
                self._loop.call_soon_threadsafe(self._resolve, completion)

    def _resolve(self, completion: Completion) -> None:
        future = self._waiting.pop(completion.request_id)
        if not future.done():  # its call was cancelled
            future.set_result(completion)


def _start_engine(config: StageConfig, has_gpu: bool) -> tuple[str, Engine]:
    """Return the device's name and the engine of the job."""
    job = config.job
    if job.engine.kind == "fake":
        from dsvl_pipeline.engine.fake import FakeEngine

        return "fake", FakeEngine(job.engine)
    import torch

    from dsvl_pipeline.engine.engine import ModelEngine

    if not has_gpu:
        torch.set_num_threads(max(1, int(job.cluster.cpus_per_engine)))
    engine = ModelEngine.from_checkpoint(
        hub.resolve(job.model.checkpoint, job.model.revision),
        job.engine,
        dtype=config.dtype,
        device="cuda" if has_gpu else "cpu",
    )
    return torch.cuda.get_device_name() if has_gpu else "cpu", engine


def _killed(request: Request, num_deaths: int) -> Completion:
    return Completion(
        request_id=request.request_id,
        completion_ids=np.empty(0, np.int32),
        text="",
        finish_reason="stop",
        num_prompt_tokens=len(request.prompt_ids),
        timings={},
        error=RowFailure(
            code="engine_crashed",
            message=f"the engine's process died {amount(num_deaths, 'time')} with this row in it, "
            "the last time with nothing else; the engine's last words are in Ray's worker logs; "
            "try `dsvl generate` with its image, or redrive it with other engine settings",
        ),
    )
