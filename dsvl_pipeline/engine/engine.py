"""Continuous batching on one device, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Self

import torch
from tokenizers import Tokenizer

from dsvl_pipeline.engine.core import EngineCore
from dsvl_pipeline.engine.device.warm_up import warm_up
from dsvl_pipeline.engine.generate import generate_all
from dsvl_pipeline.engine.schedule.cut_character import bytes_of_tokens
from dsvl_pipeline.engine.schedule.structured import Grammars
from dsvl_pipeline.errors import CheckpointError, EngineError
from dsvl_pipeline.model.checkpoint import load_model
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.end_of_sequence import read_end_of_sequence
from dsvl_pipeline.model.image_config import read_image_config
from dsvl_pipeline.records import Completion, EngineConfig, Request


class ModelEngine:
    """Answer requests with a model, many at once; implements `records.Engine`.

    Callers only touch an inbox and an outbox; everything else belongs to the engine's thread.
    """

    def __init__(self, core: EngineCore, *, step_timeout_s: float) -> None:
        """Start the thread.

        Args:
            core: Used by the thread alone from now on. Whoever else keeps it keeps its memory.
            step_timeout_s: After so many seconds in one step the device counts as hanging.
        """
        self._device = core.device
        self._step_timeout_s = step_timeout_s
        self._step_begun_s: float | None = None  # None while there is nothing to do
        self._changed = threading.Condition()  # guards all of the following
        self._inbox: list[tuple[Request, float] | str] = []  # arrivals and ids to cancel, in order
        self._outbox: list[Completion] = []
        self._held_ids: set[str] = set()
        self._stats = core.stats()
        self._failure: BaseException | None = None
        self._is_closed = False
        # The thread alone holds the core: when it is closed, the device's memory is free.
        self._thread = threading.Thread(
            target=self._run, args=(core,), name="dsvl-engine", daemon=True
        )
        self._thread.start()

    @classmethod
    def from_checkpoint(
        cls, directory: Path, config: EngineConfig, *, dtype: str, device: str
    ) -> Self:
        """Load a checkpoint and start an engine on it.

        Args:
            directory: With config.json, tokenizer.json and safetensors.
            config: How much of the device may be used.
            dtype: A torch dtype's name, or ``auto``: bfloat16 on a GPU, float32 on a CPU.
            device: As torch names it.

        Raises:
            CheckpointError: The files do not fit together.
            ConfigError: Not even one KV page fits into the memory, or the device has no fp8.
        """
        tokenizer = _read_tokenizer(directory)

        def decode(ids: Sequence[int]) -> str:
            text: str = tokenizer.decode(ids, skip_special_tokens=True)
            return text

        if dtype == "auto":
            dtype = "float32" if torch.device(device).type == "cpu" else "bfloat16"
        model = _load_warm(directory, config, getattr(torch, dtype), torch.device(device))
        eos_token_ids = read_end_of_sequence(directory).eos_token_ids
        grammars = Grammars(
            directory,
            vocab_size=model.config.text.vocab_size,
            eos_token_ids=eos_token_ids,
            control_ids=[model.config.image_token_id],
        )
        core = EngineCore(
            model,
            config,
            decode=decode,
            eos_token_ids=eos_token_ids,
            image_config=read_image_config(directory),
            grammars=grammars,
            bytes_of=bytes_of_tokens(tokenizer),
        )
        return cls(core, step_timeout_s=config.step_timeout_s)

    def submit(self, request: Request) -> None:
        with self._changed:
            self._require_alive()
            if request.request_id in self._held_ids:
                raise ValueError(f"request {request.request_id!r} is already in the engine")
            self._held_ids.add(request.request_id)
            self._inbox.append((request, time.monotonic()))
            self._changed.notify_all()

    def cancel(self, request_id: str) -> None:
        with self._changed:
            self._inbox.append(request_id)
            self._changed.notify_all()

    def poll(self, timeout_s: float) -> list[Completion]:
        with self._changed:
            self._changed.wait_for(
                lambda: self._outbox or self._failure or self._is_closed, timeout_s
            )
            # What was finished before the thread died is still good.
            if not self._outbox:
                self._require_alive()
                self._require_progress()
            ready, self._outbox = self._outbox, []
            self._held_ids.difference_update(completion.request_id for completion in ready)
            return ready

    def stats(self) -> dict[str, float]:
        with self._changed:
            return dict(self._stats)

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(self._step_timeout_s)  # a daemon: where the device hangs, so does it

    def generate(self, requests: list[Request]) -> list[Completion]:
        return generate_all(self, requests)

    def _require_alive(self) -> None:
        if self._failure is not None:
            raise EngineError(
                f"the engine's thread died of {type(self._failure).__name__}: {self._failure}; "
                "replace its process"
            ) from self._failure
        if self._is_closed:
            raise EngineError("the engine was closed")

    def _require_progress(self) -> None:
        begun_s = self._step_begun_s
        if begun_s is not None and time.monotonic() - begun_s > self._step_timeout_s:
            raise EngineError(
                f"a step has not ended for {time.monotonic() - begun_s:.0f} s, longer than "
                f"engine.step_timeout_s = {self._step_timeout_s:g}: the device hangs; "
                "replace the process"
            )

    def _run(self, core: EngineCore) -> None:
        try:
            # Gradients and streams are each thread's own. CUDA graphs cannot be captured on the
            # default stream.
            with torch.inference_mode(), self._stream():
                while self._take_in(core):
                    core.step()
                    self._step_begun_s = None
                    self._hand_out(core)
                if self._device.type == "cuda":
                    # Nobody may get the memory of a step that is still running.
                    torch.cuda.current_stream(self._device).synchronize()
        except BaseException as error:
            self._hand_out(core)
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _stream(self) -> AbstractContextManager[object]:
        if self._device.type != "cuda":
            return nullcontext()
        torch.cuda.synchronize(self._device)  # with what the constructor queued
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        return torch.cuda.stream(stream)

    def _take_in(self, core: EngineCore) -> bool:
        """Wait until there is something to do; return False when the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._inbox or core.has_work or self._is_closed)
            if self._is_closed:
                return False
            arrived, self._inbox = self._inbox, []
        self._step_begun_s = time.monotonic()
        for entry in arrived:
            match entry:
                case str(request_id):
                    core.cancel(request_id)
                case (request, submitted_s):
                    core.add(request, submitted_s=submitted_s)
        return True

    def _hand_out(self, core: EngineCore) -> None:
        completions = core.take_completions()
        with self._changed:
            self._stats = core.stats()
            if completions:
                self._outbox += completions
                self._changed.notify_all()


def _read_tokenizer(directory: Path) -> Tokenizer:
    path = directory / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower one
        raise CheckpointError(
            f"{path} cannot be read: {error}; fetch it, or save the tokenizer with a fast "
            "tokenizer class of transformers"
        ) from error


def _load_warm(
    directory: Path, config: EngineConfig, dtype: torch.dtype, device: torch.device
) -> DeepseekVL:
    """Load a model; on a GPU its kernels are compiled meanwhile."""
    with ThreadPoolExecutor(1, "dsvl-compile") as pool:
        kernels = None
        if device.type == "cuda":
            kernels = pool.submit(warm_up, directory, config, dtype=dtype, device=device)
        model = load_model(directory, dtype=dtype, device=device, quantization=config.quantization)
        if kernels is not None:
            with suppress(torch.OutOfMemoryError):  # then they compile when they are needed
                kernels.result()
    return model
