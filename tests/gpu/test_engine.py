"""The engine on a real GPU: schedules change no answer, eight bits few, and nothing grows.

    python3 -m pytest -m gpu tests/gpu -s -p no:cacheprovider

The demo checkpoint, then random weights in the 7B's shape (about 60 GB of GPU memory). `-s` shows
the figures.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.shapes import EOS_TOKEN_ID, FULL, build_model, decode_nothing, read_shape
from benchmarks.workloads import CAPTIONS, make_requests
from dsvl_pipeline import hub
from dsvl_pipeline.engine.core import EngineCore
from dsvl_pipeline.engine.device.features import ImageFeatures
from dsvl_pipeline.engine.engine import ModelEngine
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.processor.processor import Processor
from dsvl_pipeline.records import EngineConfig, ImageInput, Request, SamplingParams
from tools.demo_checkpoint import held_out, shape
from tools.demo_checkpoint.scoring import character_errors

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
FIRST_SEED = 5_000_000  # neither training nor other evaluations use the pages from here on
NUM_TOGETHER, NUM_ALONE = 64, 16
NUM_PAGES = 240
NUM_SHORT, NUM_BEFORE = 20_000, 2_000
NUM_FULL, NUM_FULL_TOKENS = 64, 48
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What an engine gave: ids by request, and its counters."""

    ids: dict[str, list[int]]
    stats: dict[str, float]


@pytest.fixture(scope="module")
def demo() -> Path:
    """The checkpoint that reads."""
    return hub.resolve("demo")


@pytest.fixture(scope="module")
def rows(demo: Path) -> list[Request]:
    """Pages and scenes: greedy ones, and sampled ones with all filters."""
    processor = Processor.from_pretrained(demo)
    requests = []
    for number in range(NUM_TOGETHER):
        is_page = number % 4 < 2
        draw, prompt = (
            (held_out.page, shape.TRANSCRIBE) if is_page else (held_out.scene, shape.DESCRIBE)
        )
        sampling = SamplingParams(max_new_tokens=200)
        if number % 2:
            sampling = replace(
                sampling, temperature=0.8, top_k=40, top_p=0.95, min_p=0.01, seed=number
            )
        picture, _ = draw(FIRST_SEED + number)
        requests.append(ask(processor, f"row-{number}", picture, prompt, sampling))
    return requests


@pytest.fixture(scope="module")
def together(demo: Path, rows: list[Request]) -> Answers:
    """All rows at once, with the default settings."""
    return answer(demo, rows)


def ask(
    processor: Processor, name: str, picture: Any, prompt: str, sampling: SamplingParams
) -> Request:
    """Make one request with one picture."""
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    return processor.request(name, [{"role": "user", "content": content}], [picture], sampling)


def answer(
    directory: Path,
    rows: Sequence[Request],
    *,
    one_by_one: bool = False,
    before: Sequence[Request] = (),
    **settings: Any,
) -> Answers:
    """Run an engine of its own over the rows, in bfloat16 on a GPU."""
    known = {field.name for field in fields(EngineConfig)}
    if missing := set(settings) - known:
        pytest.skip(f"EngineConfig has no {sorted(missing)} yet")
    config = EngineConfig(**{"kv_cache_gib": 2.0, **settings})
    engine = ModelEngine.from_checkpoint(directory, config, dtype="auto", device=DEVICE)
    try:
        engine.generate(list(before))
        groups = [[row] for row in rows] if one_by_one else [list(rows)]
        found = [completion for group in groups for completion in engine.generate(group)]
        stats = engine.stats()
    finally:
        engine.close()
    assert [completion.error for completion in found] == [None] * len(rows)
    ids = {completion.request_id: completion.completion_ids.tolist() for completion in found}
    return Answers(ids=ids, stats=stats)


def assert_same(found: Answers, wanted: Answers, what: str) -> None:
    """Compare every row's ids; say how many differ and where the first ones do."""
    differing = {
        name: first_difference(ids, wanted.ids[name])
        for name, ids in found.ids.items()
        if ids != wanted.ids[name]
    }
    print(f"{what}: {len(differing)} of {len(found.ids)} rows differ {differing or ''}")
    assert not differing


def first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the first place where two lists differ."""
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def test_rows_of_the_demo_are_no_noise(together: Answers) -> None:
    """Else the comparisons below would say nothing."""
    lengths = [len(ids) for ids in together.ids.values()]
    assert len({tuple(ids) for ids in together.ids.values()}) > 0.9 * len(lengths)
    assert min(lengths) < 0.5 * max(lengths)


def test_a_row_is_the_same_alone(demo: Path, rows: list[Request], together: Answers) -> None:
    """Other batch sizes, other kernels; the answer is the row's own."""
    found = answer(demo, rows[:NUM_ALONE], one_by_one=True)
    assert_same(found, together, "alone")


@pytest.mark.parametrize(
    "settings",
    [
        {"cuda_graphs": False},
        {"prefix_sharing": False},
        {"cuda_graphs": False, "prefix_sharing": False},
        {"max_num_sequences": 7},
        {"max_step_tokens": 300},  # most prompts in two chunks
        {"page_size_tokens": 128},
    ],
    ids=lambda settings: ",".join(f"{name}={value}" for name, value in settings.items()),
)
def test_settings_change_no_answer(
    demo: Path, rows: list[Request], together: Answers, settings: Mapping[str, Any]
) -> None:
    """Graphs, shared prefixes and the sizes of steps are matters of speed."""
    assert_same(answer(demo, rows, **settings), together, str(dict(settings)))


def test_preempted_rows_are_the_same(demo: Path, rows: list[Request], together: Answers) -> None:
    """Long ones with pages for ten, behind so many short ones that nobody expects them."""
    longest = sorted(rows, key=lambda row: -len(together.ids[row.request_id]))[: len(rows) // 2]
    sampling = SamplingParams(max_new_tokens=2, ignore_eos=True)
    short = [replace(rows[0], request_id=f"short-{n}", sampling=sampling) for n in range(40)]
    # 100 pages of 5 layers x 4 heads x 64 channels x 32 tokens, keys and values, 2 bytes
    found = answer(demo, longest, before=short, kv_cache_gib=0.0153, page_size_tokens=32)
    print(f"preemptions: {found.stats['preemptions']:.0f}")
    assert found.stats["preemptions"] > 0
    assert_same(found, together, "preempted")


@pytest.mark.parametrize("wrong", [0.0, 0.1, 1.0])
def test_drafts_change_no_answer(
    demo: Path, rows: list[Request], together: Answers, wrong: float
) -> None:
    """Perfect ones, good ones and useless ones, greedy and sampled."""
    random = np.random.default_rng(0)

    def drafted(row: Request) -> Request:
        ids = np.array(together.ids[row.request_id], dtype=np.int32)
        noise = random.integers(3, shape.VOCAB_SIZE, len(ids), dtype=np.int32)
        return replace(row, draft_ids=np.where(random.random(len(ids)) < wrong, noise, ids))

    found = answer(demo, [drafted(row) for row in rows])
    stats = {name: value for name, value in found.stats.items() if "_tokens" in name}
    print(f"drafts, {wrong:.0%} wrong: {found.stats['steps']:.0f} steps, {stats}")
    assert_same(found, together, f"drafts, {wrong:.0%} wrong")


def test_rows_on_one_picture_are_the_same(
    demo: Path, rows: list[Request], together: Answers
) -> None:
    """Each row four times beside other questions on its picture: they share what they can."""
    processor = Processor.from_pretrained(demo)
    others = [
        ask(processor, f"{row.request_id}-{n}", row.images[0], f"What is this? {n}", row.sampling)
        for row in rows[:NUM_ALONE]
        for n in range(3)
    ]
    found = answer(demo, [*rows[:NUM_ALONE], *others])
    print(f"images encoded: {found.stats['images_encoded']:.0f}")
    assert found.stats["images_encoded"] == NUM_ALONE
    ids = {row.request_id: found.ids[row.request_id] for row in rows[:NUM_ALONE]}
    assert_same(replace(found, ids=ids), together, "four prompts")


def test_eight_bits_read_about_as_well(demo: Path) -> None:
    """At most 0.3 points more of the characters are wrong than in bfloat16."""
    processor = Processor.from_pretrained(demo)
    pages = [held_out.page(FIRST_SEED + number) for number in range(NUM_PAGES)]
    sampling = SamplingParams(max_new_tokens=440)
    requests = [
        ask(processor, str(number), picture, shape.TRANSCRIBE, sampling)
        for number, (picture, _) in enumerate(pages)
    ]
    wanted = [text for _, text in pages]
    percent = {}
    for quantization in ("none", "fp8"):
        found = answer(demo, requests, quantization=quantization)
        texts = [processor.decode(found.ids[request.request_id]) for request in requests]
        edits, characters = character_errors(texts, wanted)
        percent[quantization] = 100 * edits / characters
    print(f"characters wrong on {NUM_PAGES} pages, percent: {percent}")
    assert percent["none"] < 2
    assert percent["fp8"] <= percent["none"] + 0.3


def test_nothing_grows_over_many_requests(demo: Path) -> None:
    """20,000 short ones, each with a picture of its own; after the first 2,000 all is allocated."""
    processor = Processor.from_pretrained(demo)
    sampling = SamplingParams(max_new_tokens=6, ignore_eos=True)
    model = ask(processor, "x", held_out.scene(FIRST_SEED)[0], shape.DESCRIBE, sampling)
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (2, 512, 512, 3), np.uint8) for _ in range(16)]

    def short(number: int) -> Request:
        high_res, other = pictures[number % len(pictures)]
        side = shape.LOW_RES_PX
        low_res = np.ascontiguousarray(other[:side, :side])
        image = ImageInput(digest=number.to_bytes(16), high_res=high_res, low_res=low_res)
        # lengths differ, so that steps of all sizes come
        settings = replace(sampling, max_new_tokens=1 + number % 12, seed=number)
        return replace(model, request_id=str(number), images=(image,), sampling=settings)

    engine = ModelEngine.from_checkpoint(
        demo, EngineConfig(kv_cache_gib=2.0), dtype="auto", device=DEVICE
    )
    num_submitted, num_done, before = 0, 0, (0.0, 0.0)
    try:
        while num_done < NUM_SHORT:
            while num_submitted < min(num_done + 1_000, NUM_SHORT):
                engine.submit(short(num_submitted))
                num_submitted += 1
            ready = engine.poll(10.0)
            assert all(completion.error is None for completion in ready)
            is_first = num_done < NUM_BEFORE <= num_done + len(ready)
            num_done += len(ready)
            if is_first:
                before = memory_mib()
        after = memory_mib()
    finally:
        engine.close()
    print(f"host and device MiB after {NUM_BEFORE}: {before}, after {NUM_SHORT}: {after}")
    assert after[0] <= before[0] + 64
    assert after[1] <= before[1] + 32


def memory_mib() -> tuple[float, float]:
    """What this process holds of the host's memory, and of the device's."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / MIB
    if DEVICE != "cuda":
        return resident, 0.0
    free, total = torch.cuda.mem_get_info()
    return resident, (total - free) / MIB


@pytest.fixture
def full_model() -> Iterator[DeepseekVL]:
    """Random weights in the 7B's shape: products round differently for other batch sizes."""
    torch.backends.cudnn.allow_tf32 = False
    yield build_model(read_shape(FULL), dtype=torch.bfloat16, device=DEVICE)
    gc.collect()
    torch.cuda.empty_cache()


@torch.inference_mode()
def test_rows_first_differ_where_rounding_decides(full_model: DeepseekVL) -> None:
    """Two batch sizes; what differs is shown to be a tie within bfloat16's rounding.

    Each run's logits are off from the exact ones by at most ``e``, so two candidates can only
    change places where their exact logits lie within ``2 e``. Here ``e`` is the largest error
    over the vocabulary of a plain bfloat16 pass over the row's common prefix, and a float32
    pass with the same weights stands for the exact one.
    """
    workload = replace(CAPTIONS, num_requests=NUM_FULL, new_tokens=NUM_FULL_TOKENS)
    requests = make_requests(workload, read_shape(FULL))
    runs = [run(full_model, requests, size) for size in (7, NUM_FULL)]
    differing = [r for r in requests if runs[0][r.request_id] != runs[1][r.request_id]]
    share = len(differing) / len(requests)
    print(f"{share:.1%} of {NUM_FULL} rows of {NUM_FULL_TOKENS} tokens differ between batches")
    with torch.device(DEVICE):
        exact = DeepseekVL(full_model.config)
    exact.to(DEVICE).requires_grad_(False)
    for parameter, rounded in zip(exact.parameters(), full_model.parameters(), strict=True):
        parameter.copy_(rounded)
    worst = 0.0
    for request in differing[:16]:
        a, b = (found[request.request_id] for found in runs)
        place = first_difference(a, b)
        ids = np.concatenate([request.prompt_ids, np.array(a[:place], dtype=np.int32)])
        here, wanted = (next_logits(m, request.images[0], ids) for m in (full_model, exact))
        error = float((here - wanted).abs().max())
        gap = abs(float(wanted[a[place]] - wanted[b[place]]))
        worst = max(worst, gap / error)
        print(f"  {request.request_id}: token {place}, gap {gap:.4f}, rounding {error:.4f}")
        assert gap <= 2 * error
    print(f"largest gap: {worst:.2f} of the rounding error")


def run(model: DeepseekVL, requests: list[Request], max_num_sequences: int) -> dict[str, list[int]]:
    """Return the ids of an engine that runs so many sequences at once."""
    config = EngineConfig(kv_cache_gib=32, max_num_sequences=max_num_sequences)
    engine = ModelEngine(
        EngineCore(
            model,
            config,
            decode=decode_nothing,
            eos_token_ids=[EOS_TOKEN_ID],
            image_config=read_shape(FULL).images,
        ),
        step_timeout_s=config.step_timeout_s,
    )
    try:
        found = engine.generate(requests)
    finally:
        engine.close()
    return {completion.request_id: completion.completion_ids.tolist() for completion in found}


def next_logits(model: DeepseekVL, image: ImageInput, ids: np.ndarray[Any, Any]) -> Tensor:
    """Return the scores of the next token, ``float32[V]``, without pages or batch."""
    features = ImageFeatures(model, read_shape(FULL).images)
    low, high = features._normalise_low, features._normalise_high
    assert high is not None
    assert image.high_res is not None
    pixels = [torch.tensor(x, device=DEVICE)[None] for x in (image.low_res, image.high_res)]
    encoded = model.encode_images(low(pixels[:1]), high(pixels[1:]))
    hidden = model.embed(torch.from_numpy(ids).long().to(DEVICE), encoded.flatten(0, 1))
    starts = torch.tensor([0, len(ids)], dtype=torch.int32, device=DEVICE)
    return model.logits(model.forward_dense(hidden, starts)[-1]).float()
