"""What the engine is asked in its benchmark: seeded prompts, pictures and lengths."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmarks.shapes import FIRST_WORD_ID, IMAGE_TOKEN_ID, Shape
from dsvl_pipeline.records import ImageInput, Request, SamplingParams

# Text of the 624 tokens of a prompt: the system text and "User: ", then the image's 576, then the
# question and "Assistant:".
NUM_SYSTEM_IDS, NUM_QUESTION_IDS = 24, 24
MIXED_MEDIAN, MIXED_SIGMA, MIXED_MOST = 90, 0.6, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A set of requests.

    Attributes:
        name: As the command line has it.
        num_requests: In all.
        new_tokens: Of each request; the most where lengths are mixed.
        is_mixed: Whether lengths are log-normal.
        prompts_per_image: Requests in a row that show the same picture.
        has_drafts: Whether requests carry a draft text.
        is_foreseen: Whether a request's length is its ``max_new_tokens``; else an end of sequence
            comes there, of which the engine knows nothing before, as in a job.
        floors: Images (requests) per second that issue 4 asks for at least, by precision; a
            number below 3 is relative to captions.
        aims: The same for what it hopes for.
    """

    name: str
    num_requests: int
    new_tokens: int
    is_mixed: bool = False
    prompts_per_image: int = 1
    has_drafts: bool = False
    is_foreseen: bool = True
    floors: tuple[float, float] = (0.0, 0.0)
    aims: tuple[float, float] = (0.0, 0.0)

    def scaled(self, share: float, *, tokens: float = 1.0) -> Workload:
        """Return a smaller one of the same kind."""
        num_requests = max(4, round(self.num_requests * share))
        num_requests += -num_requests % self.prompts_per_image
        new_tokens = max(2, round(self.new_tokens * tokens))
        return replace(self, num_requests=num_requests, new_tokens=new_tokens)

    def lengths(self) -> NDArray[np.int64]:
        """Tokens to be produced, by request."""
        if not self.is_mixed:
            return np.full(self.num_requests, self.new_tokens)
        scale = self.new_tokens / MIXED_MOST
        # quantiles in random order: a draw's mean would be off by 2 %
        places = (np.arange(self.num_requests) + 0.5) / self.num_requests
        normal = np.array([NormalDist().inv_cdf(place) for place in places])
        drawn = MIXED_MEDIAN * scale * np.exp(MIXED_SIGMA * normal)
        return (
            np.random.default_rng(1)
            .permutation(drawn)
            .round()
            .astype(np.int64)
            .clip(1, self.new_tokens)
        )


CAPTIONS = Workload(
    name="captions", num_requests=1024, new_tokens=128, floors=(33, 50), aims=(40, 65)
)
MIXED = Workload(
    name="mixed",
    num_requests=1024,
    new_tokens=MIXED_MOST,
    is_mixed=True,
    floors=(1.0, 1.0),
)
MIXED_ENDS = replace(MIXED, name="mixed-ends", is_foreseen=False)
OCR = Workload(name="ocr", num_requests=256, new_tokens=1000, floors=(5.5, 8.5), aims=(6.2, 11))
OCR_DRAFTS = Workload(
    name="ocr-drafts",
    num_requests=256,
    new_tokens=1000,
    has_drafts=True,
    floors=(11, 14),
    aims=(16, 20),
)
FOUR_PROMPTS = Workload(
    name="four-prompts",
    num_requests=1024,
    new_tokens=128,
    prompts_per_image=4,
    floors=(1.35, 1.35),
    aims=(2.0, 2.0),
)
# More requests than lanes: graphs of all sizes are captured before anything is timed.
WARM_UP = Workload(name="warm-up", num_requests=640, new_tokens=48, is_mixed=True)
WORKLOADS = {
    workload.name: workload
    for workload in (CAPTIONS, MIXED, MIXED_ENDS, FOUR_PROMPTS, OCR, OCR_DRAFTS)
}


def make_requests(workload: Workload, shape: Shape) -> list[Request]:
    """Draw a workload's requests: greedy, without an end of sequence.

    Pictures and questions are different ones in every workload, so that one engine can run them
    all without finding anything of an earlier one. Random weights produce no end of their own:
    where lengths are not foreseen, a `Script` must put one.
    """
    vocab_size = shape.model.text.vocab_size
    random = np.random.default_rng(list(workload.name.encode()))
    system = np.random.default_rng(0).integers(FIRST_WORD_ID, vocab_size, NUM_SYSTEM_IDS)
    image_ids = np.full(shape.model.num_image_tokens, IMAGE_TOKEN_ID)
    image = None
    requests = []
    for number, length in enumerate(workload.lengths().tolist()):
        if image is None or number % workload.prompts_per_image == 0:
            image = make_image(workload.name, number, shape)
        question = random.integers(FIRST_WORD_ID, vocab_size, NUM_QUESTION_IDS)
        draft_ids = random.integers(FIRST_WORD_ID, vocab_size, length, dtype=np.int32)
        requests.append(
            Request(
                request_id=f"{workload.name}-{number}",
                prompt_ids=np.concatenate([system, image_ids, question]).astype(np.int32),
                images=(image,),
                sampling=SamplingParams(
                    max_new_tokens=length if workload.is_foreseen else workload.new_tokens,
                    ignore_eos=workload.is_foreseen,
                ),
                draft_ids=draft_ids if workload.has_drafts else None,
            )
        )
    return requests


def make_images(name: str, count: int, shape: Shape) -> list[ImageInput]:
    """Cut several, see `make_image`."""
    return [make_image(name, number, shape) for number in range(count)]


def make_image(name: str, number: int, shape: Shape) -> ImageInput:
    """Cut one noise picture out of a block in host memory; read-only, as out of an object store.

    Pictures overlap in the block (1,024 of them would take 3.6 GB), but are all different, and
    the block is far larger than any cache of the host.
    """
    images = shape.images
    return ImageInput(
        digest=hashlib.sha256(f"{name}-{number}".encode()).digest()[:16],
        high_res=_cut(images.high_res.side_px, number) if images.high_res else None,
        low_res=_cut(images.low_res.side_px, number),
    )


def _cut(side_px: int, number: int) -> NDArray[np.uint8]:
    size = 3 * side_px**2
    block = _noise(80 * size)
    step = size // 16 + 1
    start = number * step % (len(block) - size)
    return block[start : start + size].reshape(side_px, side_px, 3)


@cache
def _noise(size: int) -> NDArray[np.uint8]:
    return np.frombuffer(np.random.default_rng(0).bytes(size), dtype=np.uint8)
