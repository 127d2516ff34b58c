"""The model stage: an engine in a Ray actor, many batches at once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import traceback
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from dsvl_pipeline import hub, keys, storage
from dsvl_pipeline.errors import EngineError
from dsvl_pipeline.pipeline import blocks
from dsvl_pipeline.pipeline.blocks import CARRY
from dsvl_pipeline.pipeline.preprocess import StageConfig
from dsvl_pipeline.records import Completion, Engine, Request, SamplingParams
from dsvl_pipeline.table.schema import logical_key, output_schema

PIXEL_COLUMNS = ("prompt_ids", "digests", "high_res", "low_res")


class Generate:
    """An engine in an actor: one batch a call, many calls at once.

    The engine runs in a thread of its own and a second thread collects its completions, so that
    neither ever blocks the actor's event loop. When the engine breaks, the process ends: Ray
    then starts another and retries the batches.
    """

    def __init__(self, *, config: StageConfig, has_gpu: bool) -> None:
        self._config = config
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[str, asyncio.Future[Completion]] = {}
        self._device, self._engine = _start_engine(config, has_gpu)
        threading.Thread(target=self._collect, name="collect", daemon=True).start()

    async def __call__(self, batch: pa.Table) -> pa.Table:
        self._loop = asyncio.get_running_loop()
        futures = {
            index: self._ask(request)
            for index, request in _requests(batch, self._config.job.generation).items()
        }
        await asyncio.gather(*futures.values())
        answers = {index: future.result() for index, future in futures.items()}
        rows = batch.drop_columns([n for n in PIXEL_COLUMNS if n in batch.column_names])
        return _results(rows, answers, self._config, self._device)

    def _ask(self, request: Request) -> asyncio.Future[Completion]:
        future = self._waiting.get(request.request_id)
        if future is None:  # else: a retry of a call whose first attempt still runs
            future = self._waiting[request.request_id] = asyncio.Future()
            self._engine.submit(request)
        return future

    def _collect(self) -> None:
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
    """The device's name and the engine of the job."""
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


def _requests(batch: pa.Table, sampling: SamplingParams) -> dict[int, Request]:
    """The rows that have something to ask, by their place in the batch."""
    images = blocks.images_of(batch)
    asks = zip(
        logical_key(batch).to_pylist(),
        batch["row_key"].to_pylist(),
        batch["error_code"].to_pylist(),
        batch["is_blank"].to_pylist(),
        strict=True,
    )
    return {
        index: Request(
            request_id=logical_key.hex(),
            prompt_ids=batch["prompt_ids"][index].values.to_numpy(),
            images=images[index],
            sampling=replace(sampling, seed=_seed(row_key, sampling.seed)),
        )
        for index, (logical_key, row_key, error_code, is_blank) in enumerate(asks)
        if error_code is None and not is_blank
    }


def _seed(row_key: bytes, seed: int) -> int:
    """A row's own randomness, the same wherever and whenever it runs."""
    return (int.from_bytes(row_key[:8], "little") ^ seed) & (2**63 - 1)


def _results(
    rows: pa.Table, answers: dict[int, Completion], config: StageConfig, device: str
) -> pa.Table:
    """The output rows: what was asked, what came back, and this run's lineage."""
    carry = pa.schema(
        [f.with_name(f.name.removeprefix(CARRY)) for f in rows.schema if f.name.startswith(CARRY)]
    )
    schema = output_schema(carry)
    place = {"device": device, "node": os.uname().nodename, "produced_at": datetime.now(UTC)}
    out = []
    for index, row in enumerate(rows.to_pylist()):
        uris, prompt = row.pop("sources"), row.pop("prompt")
        row["source_uris"] = [storage.redact(uri) for uri in uris]
        # Signed URLs lose their query: the digest still tells one from another.
        row["source_uri_sha256s"] = [hashlib.sha256(uri.encode()).hexdigest() for uri in uris]
        row["prompt_digest"] = None if prompt is None else keys.prompt_digest(prompt).hex()
        row |= config.lineage | place | _answer(row, answers.get(index))
        # A user's `is_blank` or `kind` stands before our own, which is no output column; output
        # columns have no such double, `output_schema` refused it.
        row |= {name: row[CARRY + name] for name in carry.names}
        out.append({name: row.get(name) for name in schema.names})
    return pa.Table.from_pylist(out, schema=schema)


def _answer(row: dict[str, Any], completion: Completion | None) -> dict[str, Any]:
    if completion is None:
        if row["error_code"] is not None:
            return {"status": "error"}
        return {
            "status": "degraded",
            "text": "",
            "error_code": "blank_page",
            "error_message": "the page is blank; the model was not asked",
        }
    if completion.error is not None:
        return {
            "status": "error",
            "error_code": completion.error.code,
            "error_message": completion.error.message,
            "is_retryable": completion.error.is_retryable,
        }
    is_whole = completion.finish_reason == "stop"
    return {
        "status": "ok" if is_whole else "degraded",
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "num_prompt_tokens": completion.num_prompt_tokens,
        "num_completion_tokens": len(completion.completion_ids),
        "latency_s": completion.timings["finished_s"],
    }
