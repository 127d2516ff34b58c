"""The model stage: an engine in a Ray actor, many batches at once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
import traceback
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from dsvl_pipeline import hub, storage
from dsvl_pipeline.errors import EngineError
from dsvl_pipeline.fields import FieldType, read_fields
from dsvl_pipeline.pipeline import blocks
from dsvl_pipeline.pipeline.blocks import CARRY
from dsvl_pipeline.pipeline.gate import Gate
from dsvl_pipeline.pipeline.stage_config import StageConfig
from dsvl_pipeline.records import Completion, Engine, Request, RowFailure, SamplingParams
from dsvl_pipeline.table.schema import logical_key, output_schema
from dsvl_pipeline.wording import amount

_DEATHS_TOGETHER = 2  # one is ordinary: nodes vanish
PIXEL_COLUMNS = ("prompt_ids", "draft_ids", "digests", "high_res", "low_res")


class Generate:
    """An engine in an actor: one batch a call, many calls at once.

    The engine runs in a thread of its own and a second thread collects its completions, so that
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
        self._gate = Gate()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[str, asyncio.Future[Completion]] = {}
        self._device, self._engine = _start_engine(config, has_gpu)
        self._started_s = time.monotonic()
        self._restarts = _num_restarts()
        threading.Thread(target=self._collect, name="collect", daemon=True).start()

    async def __call__(self, batch: pa.Table) -> pa.Table:
        self._loop = asyncio.get_running_loop()
        work, requests = _digest(batch), _requests(batch, self._config.job.generation)
        answers = None
        async with self._gate.together():
            num_deaths = await self._ledger.begin.remote(self._id, work)
            if num_deaths < _DEATHS_TOGETHER:
                answers = await self._answers(requests)
            else:
                await self._ledger.defer.remote(work)
        if answers is None:
            async with self._gate.alone():
                num_deaths = await self._ledger.begin.remote(self._id, work)
                answers = await self._answers_of_suspects(work, requests, num_deaths)
        await self._ledger.end.remote(self._id, work, self._stats())
        rows = batch.drop_columns([n for n in PIXEL_COLUMNS if n in batch.column_names])
        return _results(rows, answers, self._config, self._device, num_deaths + 1)

    async def _answers(self, requests: dict[int, Request]) -> dict[int, Completion]:
        futures = {index: self._ask(request) for index, request in requests.items()}
        await asyncio.gather(*futures.values())
        return {index: future.result() for index, future in futures.items()}

    async def _answers_of_suspects(
        self, work: bytes, requests: dict[int, Request], num_deaths: int
    ) -> dict[int, Completion]:
        """Answer a batch that was in the engine at every one of several deaths.

        First it is alone with the engine. Where that dies again, it is asked row by row, and a
        row that was alone with a dying engine is not asked any more.
        """
        if num_deaths <= _DEATHS_TOGETHER and len(requests) > 1:
            return await self._answers(requests)
        answers: dict[int, Completion] = {}
        for index, request in requests.items():
            row = work + request.request_id.encode()
            if await self._ledger.begin.remote(self._id, row):
                answers[index] = _deadly(request, num_deaths)
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


def _num_restarts() -> float:
    """Tell whether Ray started this actor in the place of one that died: 1, or 0."""
    actor = ray._private.state.actors(ray.get_runtime_context().get_actor_id())
    return float(bool(actor and actor["NumRestarts"]))


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


def _digest(batch: pa.Table) -> bytes:
    """Name a batch: the same at every attempt."""
    state = hashlib.blake2b(digest_size=16)
    for key in logical_key(batch).to_pylist():
        state.update(len(key).to_bytes(4, "little") + key)
    return state.digest()


def _requests(batch: pa.Table, sampling: SamplingParams) -> dict[int, Request]:
    """The rows that have something to ask, by their place in the batch."""
    images = blocks.images_of(batch)
    names = ("row_key", "error_code", "is_blank", "schema", "regex")
    asks = zip(logical_key(batch).to_pylist(), batch.select(names).to_pylist(), strict=True)
    return {
        index: Request(
            request_id=logical_key.hex(),
            prompt_ids=batch["prompt_ids"][index].values.to_numpy(),
            images=images[index],
            sampling=replace(sampling, seed=_seed(ask["row_key"], sampling.seed)),
            schema=ask["schema"],
            regex=ask["regex"],
            draft_ids=_ids(batch["draft_ids"][index]),
        )
        for index, (logical_key, ask) in enumerate(asks)
        if ask["error_code"] is None and not ask["is_blank"]
    }


def _ids(ids: pa.ListScalar) -> NDArray[np.int32] | None:
    """``int32[K]``, a view; None where there is no list."""
    values = ids.values
    return None if values is None else values.to_numpy()


def _seed(row_key: bytes, seed: int) -> int:
    """A row's own randomness, the same wherever and whenever it runs."""
    return (int.from_bytes(row_key[:8], "little") ^ seed) & (2**63 - 1)


def _deadly(request: Request, num_deaths: int) -> Completion:
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


def _results(
    rows: pa.Table,
    answers: dict[int, Completion],
    config: StageConfig,
    device: str,
    attempt: int,
) -> pa.Table:
    """The output rows: what was asked, what came back, and this run's lineage."""
    carry = pa.schema(
        [f.with_name(f.name.removeprefix(CARRY)) for f in rows.schema if f.name.startswith(CARRY)]
    )
    job = config.job
    schema = output_schema(carry, job.fields)
    fields = {prompt.id: prompt.fields for prompt in job.prompts}
    place = {"device": device, "node": os.uname().nodename, "produced_at": datetime.now(UTC)}
    place |= {"attempt": attempt}
    out = []
    for index, row in enumerate(blocks.plain_rows(rows)):
        uris = row.pop("sources")
        row["source_uris"] = [storage.redact(uri) for uri in uris]
        # Signed URLs lose their query: the digest still tells one from another.
        row["source_uri_sha256s"] = [hashlib.sha256(uri.encode()).hexdigest() for uri in uris]
        is_asked = row["prompt"] is not None
        row["prompt_digest"] = blocks.prompt_digest_of(row).hex() if is_asked else None
        answer = _answer(row, answers.get(index))
        if row["schema"] is not None and answer.get("finish_reason") == "stop":
            answer |= _typed(answer["text"], fields.get(row["prompt_id"], {}))
        answer |= _defect(row, answer)
        # A property may be called as a column that we do not put out.
        row |= config.lineage | place | dict.fromkeys(job.fields) | answer
        out.append(row)
    ours = pa.schema([field for field in schema if field.name not in carry.names])
    table = pa.Table.from_pylist(out, schema=ours)
    # From Arrow to Arrow. A user's `is_blank` or `kind` stands before our own, which is no output
    # column; output columns have no such double, `output_schema` refused it.
    for field in carry:
        table = table.append_column(field, rows[CARRY + field.name])
    return table.select(schema.names)


def _defect(row: dict[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """What a page's own defect makes of an answer to it; what is wrong with that is told as well.

    An answer that is cut, or repeats itself, says so in its ``finish_reason`` too.
    """
    if row.get("defect_code") is None or answer["status"] == "error":
        return {}
    messages = (row["defect_message"], answer.get("error_message"))
    return {
        "status": "degraded",
        "error_code": row["defect_code"],
        "error_message": "; ".join(filter(None, messages)),
    }


_LOOPS = {
    "error_code": "repetition",
    "error_message": "the answer went on repeating itself and was ended; what is repeated stands "
    "at its end once. If the page is like that, raise generation.max_loop_tokens",
}


def _typed(text: str, fields: Mapping[str, FieldType]) -> dict[str, Any]:
    """The columns for an answer's fields.

    An answer that was ended by a stop text, or whose numbers are larger than a column can hold,
    is degraded, and its fields stay empty.
    """
    try:
        return read_fields(text, fields)
    except ValueError as error:
        return {
            "status": "degraded",
            "error_code": "schema_unsatisfied",
            "error_message": f"the answer does not fit the prompt's JSON schema: {error}",
        }


def _logprobs(completion: Completion) -> dict[str, Any]:
    """The columns for how sure the model was; empty where nobody asked, or it said nothing."""
    logprobs = completion.logprobs
    if logprobs is None or not len(logprobs):
        return {}
    return {
        "mean_logprob": float(logprobs.mean(dtype=np.float64)),
        "min_logprob": float(logprobs.min()),
        "logprobs": logprobs.tolist(),
    }


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
    defect = _LOOPS if completion.finish_reason == "repetition" else {}
    return defect | {
        "status": "ok" if is_whole else "degraded",
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        **_logprobs(completion),
        "num_prompt_tokens": completion.num_prompt_tokens,
        "num_completion_tokens": len(completion.completion_ids),
        "latency_s": completion.timings["finished_s"],
    }
