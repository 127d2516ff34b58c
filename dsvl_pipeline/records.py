"""Frozen values that cross package borders. Torch-free, Ray-free, pydantic-free.

Letters: ``T`` prompt tokens, ``N`` new tokens, ``S`` edge of a square image in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""``uint8[H, W, 3]``: height, width, channel; RGB; neither rescaled nor normalised."""

FinishReason = Literal["stop", "length", "repetition", "cancelled"]


def _require(is_valid: bool, name: str, found: object, wanted: str) -> None:
    if not is_valid:
        raise ValueError(f"{name} is {found!r}; it must be {wanted}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFailure:
    """Why a row has no answer: ``error_code`` and ``error_message`` of its output row."""

    code: str
    message: str
    is_retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One entry of a job's input, before prompts and pages multiply it.

    Attributes:
        row_id: The id column; without one a digest (see `dsvl_pipeline.keys`); for files and
            documents their URI without query string or user info.
        kind: ``image`` rows are asked as they are; a ``document`` row stands for all its pages, and
            so does a ``tiff`` row, unless its file turns out to have one page: it is then an image.
        sources: What to read: image URIs in order (none for a text prompt), or one document URI.
        content_id: What identifies the content without reading it (`dsvl_pipeline.keys`); empty
            for a file that is gone: what was answered before stays.
        prompt: The manifest's own prompt, asked under ``prompt_id="column"``; None without one.
        schema: The manifest's own JSON schema, normalised: for its own prompt, and for those of
            the job that come without a schema or regular expression.
        carry: Values of the carried columns (`columns.cells`), in the order of the job file.
        failure: Set when the entry itself is bad; it then becomes one error row.
    """

    row_id: str
    kind: Literal["image", "document", "tiff"]
    sources: tuple[str, ...]
    content_id: bytes
    prompt: str | None = None
    schema: str | None = None
    carry: tuple[Any, ...] = ()
    failure: RowFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How one completion is decoded. The default is greedy decoding of 128 tokens.

    The same class is the ``generation:`` section of a job file, so its names are what users write.

    Attributes:
        max_new_tokens: Most tokens of an answer, at least 1. An answer that reaches it has the
            ``finish_reason`` ``length``.
        temperature: Divides the logits before a token is drawn, and must be 0 or at least 1e-5. 0
            is greedy decoding, which ignores ``top_k``, ``top_p`` and ``min_p``.
        top_k: Draw from the k likeliest tokens, below 2**31. 0 keeps all.
        top_p: Draw from the smallest set of tokens whose probabilities add up to this, above 0. 1
            keeps all.
        min_p: Leave out tokens less likely than this share of the likeliest one, from 0 to below 1.
            0 keeps all.
        repetition_penalty: Above 1, tokens of prompt and answer become less likely to come again;
            below 1, more likely. 1 changes nothing. It counts for greedy decoding as well.
        seed: Seed of the random draws. A draw depends on the seed and the position alone, not on
            other rows.
        stop: Texts that end an answer. The answer is cut before them.
        stop_token_ids: Token ids that end an answer, besides the checkpoint's end of sequence.
        max_loop_tokens: An answer that only repeats itself for this many tokens ends with the
            ``finish_reason`` ``repetition``. A repeated text of 16 to 64 tokens ends it after half
            as many. Use 0 to turn this off, or at least 32. The default in a job file is 256;
            elsewhere it is 0, as in transformers.
        ignore_eos: Whether to go on after the end of sequence, up to ``max_new_tokens``. For
            benchmarks.
        logprobs: Whether to keep the log-probability of each token of an answer. They fill the
            columns ``mean_logprob``, ``min_logprob`` and ``logprobs``, which else are null.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    max_loop_tokens: int = 0
    ignore_eos: bool = False
    logprobs: bool = False

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        _require(
            self.temperature == 0 or self.temperature >= 1e-5,
            "temperature",
            self.temperature,
            "0 (greedy) or at least 1e-5",
        )
        _require(type(self.seed) is int, "seed", self.seed, "an integer")
        _require(type(self.top_k) is int, "top_k", self.top_k, "an integer")
        _require(0 <= self.top_k < 2**31, "top_k", self.top_k, "from 0 (off) to below 2**31")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1 (off)")
        _require(0 <= self.min_p < 1, "min_p", self.min_p, "from 0 (off) to below 1")
        _require(
            self.repetition_penalty > 0, "repetition_penalty", self.repetition_penalty, "above 0"
        )
        _require(
            self.max_loop_tokens == 0 or self.max_loop_tokens >= 32,
            "max_loop_tokens",
            self.max_loop_tokens,
            "0 (off) or at least 32",
        )
        _require(all(self.stop), "stop", self.stop, "texts that are not empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What one engine may use. The ``engine:`` section of a job file.

    Attributes:
        kind: ``model`` runs the checkpoint. ``fake`` answers with random text, for tests.
        kv_cache_gib: Memory for keys and values. ``auto`` takes what is free on a GPU, except for a
            reserve, and 1 GiB on a CPU.
        max_num_sequences: Most answers that are decoded in one step. ``auto`` is 256 on a GPU, 512
            with fp8, and 16 on a CPU.
        max_step_tokens: Most prompt tokens that one step reads.
        page_size_tokens: Number of tokens in one page of the memory for keys and values.
        quantization: ``fp8`` uses eight bits for the language model's matrix products, keys and
            values. It is faster, needs a Hopper GPU, and changes answers slightly.
        prefix_sharing: Whether to compute a beginning that several prompts share only once.
        cuda_graphs: Whether to run decode steps as CUDA graphs, which saves time on the host. It
            has no effect on a CPU.
        step_timeout_s: Longest time of one step. If a step takes longer, the device is taken to
            hang: the engine fails, and its process is replaced.
        fake: Settings of the fake engine, see `FakeEngineConfig`.
    """

    kind: Literal["model", "fake"] = "model"
    kv_cache_gib: float | Literal["auto"] = "auto"
    max_num_sequences: int | Literal["auto"] = "auto"
    max_step_tokens: int = 8192
    page_size_tokens: int = 64
    quantization: Literal["none", "fp8"] = "none"
    prefix_sharing: bool = True
    cuda_graphs: bool = True
    step_timeout_s: float = 300.0
    fake: FakeEngineConfig | None = None

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.kv_cache_gib != "auto":
            _require(self.kv_cache_gib > 0, "kv_cache_gib", self.kv_cache_gib, "above 0 or auto")
        if self.max_num_sequences != "auto":
            _require(
                self.max_num_sequences >= 1, "max_num_sequences", self.max_num_sequences, ">= 1"
            )
        _require(self.max_step_tokens >= 1, "max_step_tokens", self.max_step_tokens, "at least 1")
        _require(
            self.page_size_tokens >= 1, "page_size_tokens", self.page_size_tokens, "at least 1"
        )
        _require(self.step_timeout_s > 0, "step_timeout_s", self.step_timeout_s, "above 0")

    def num_sequences(self, *, has_gpu: bool) -> int:
        """Return ``max_num_sequences``, or what ``auto`` stands for."""
        if self.max_num_sequences != "auto":
            return self.max_num_sequences
        if not has_gpu:
            return 16
        # What a step costs beside the keys and values it reads is shared by its sequences, up to
        # the number at which the matrix products are no longer bound by reading weights. In eight
        # bits the products are twice as fast, and twice as many sequences fit.
        return 512 if self.quantization == "fp8" else 256


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeEngineConfig:
    """An engine without a model, for tests. Its answers depend on the request and the seed alone.

    Attributes:
        mean_delay_s: Mean time that a request takes. Single times are drawn from an exponential
            distribution.
        mean_completion_tokens: Mean length of the answers.
        crash_rate: Share of the requests, from 0 to 1, that kill the engine's process.
        crash_dir: Local directory in which a killed process leaves a marker, so that the next
            attempt succeeds. Without it every attempt is killed.
        seed: Seed of texts, delays and crashes.
    """

    mean_delay_s: float = 0.0
    mean_completion_tokens: int = 16
    crash_rate: float = 0.0
    crash_dir: str | None = None
    seed: int = 0

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageInput:
    """One picture, ready for the device.

    Attributes:
        digest: 16 bytes; equal digest, equal pixels: encoded once. Of the file they were decoded
            from, where there is one, else of the pixels.
        high_res: ``uint8[S, S, 3]`` for SAM (1024 px), or normalised ``float32[3, S, S]`` as the
            public ``generate()`` gets it; None for single-tower models.
        low_res: ``uint8[S, S, 3]`` for SigLIP (384 px), or normalised ``float32[3, S, S]``.
    """

    digest: bytes
    high_res: NDArray[Any] | None
    low_res: NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """One prompt with its images, as the engine wants it.

    Attributes:
        request_id: Unique among the requests an engine holds.
        prompt_ids: ``int32[T]``, every image token already expanded to ``num_image_tokens``.
        images: In the order of their placeholders; may be empty.
        sampling: How to decode.
        schema: JSON schema, as text, that the completion must satisfy.
        regex: Regular expression that the whole completion must match; not besides a schema.
        draft_ids: ``int32[K]`` guess at the completion; a hint that never changes the result.
    """

    request_id: str
    prompt_ids: NDArray[np.int32]
    images: tuple[ImageInput, ...] = ()
    sampling: SamplingParams = SamplingParams()
    schema: str | None = None
    regex: str | None = None
    draft_ids: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Completion:
    """The answer to one request.

    Attributes:
        request_id: Of the request.
        completion_ids: ``int32[N]`` new ids; holds the final stop id, if one was produced.
        text: Decoded without special tokens, cut before a stop text. Where an answer was cut inside
            a character, without the part of it.
        finish_reason: ``stop`` (end of sequence, stop id or stop text), ``length``,
            ``repetition`` or ``cancelled``.
        logprobs: ``float32[N]`` where asked for: log softmax of the raw logits at each id.
        num_prompt_tokens: Image tokens included.
        timings: Seconds since submission, by event: ``first_token_s``, ``finished_s``.
        error: Set where the request could not be run at all (it would never fit), or where its
            grammar failed on the way; ``text`` is then no answer.
    """

    request_id: str
    completion_ids: NDArray[np.int32]
    text: str
    finish_reason: FinishReason
    num_prompt_tokens: int
    logprobs: NDArray[np.float32] | None = None
    timings: dict[str, float]
    error: RowFailure | None = None


class Engine(Protocol):
    """The seam between pipeline and engine; the model engine and the fake one implement it.

    Thread-safe: any thread may submit, cancel and poll. Completions come in any order.
    """

    def submit(self, request: Request) -> None:
        """Queue a request; returns at once. A bad one answers with ``Completion.error``."""
        ...

    def cancel(self, request_id: str) -> None:
        """Finish a request early, with ``finish_reason="cancelled"`` and what it has so far."""
        ...

    def poll(self, timeout_s: float) -> list[Completion]:
        """Wait up to ``timeout_s`` for at least one completion and return all that are ready.

        Raises:
            EngineError: The engine's thread died; replace the process.
        """
        ...

    def stats(self) -> dict[str, float]:
        """Return counters since the start and gauges of now, by name."""
        ...

    def close(self) -> None:
        """Stop the engine's thread and free its memory."""
        ...

    def generate(self, requests: list[Request]) -> list[Completion]:
        """Submit all, wait, and return the completions in the order of the requests."""
        ...
