"""The shipped checkpoint: small, trained, and read by transformers as it is."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dsvl_pipeline import hub
from dsvl_pipeline.api.models import DeepseekVLHybridForConditionalGeneration
from dsvl_pipeline.api.processor import DeepseekVLHybridProcessor
from dsvl_pipeline.engine.engine import ModelEngine
from dsvl_pipeline.processor import decode
from dsvl_pipeline.processor.processor import Processor
from dsvl_pipeline.records import EngineConfig, SamplingParams
from tools import demo_samples
from tools.demo_checkpoint import held_out, shape

DIRECTORY = hub.resolve("demo")
MOST_TOKENS = 440
Question = tuple[bytes, str]


@pytest.fixture(scope="module")
def engine() -> Iterator[ModelEngine]:
    """In float32, as a run on a CPU has it."""
    config = EngineConfig(kv_cache_gib=0.5)
    engine = ModelEngine.from_checkpoint(DIRECTORY, config, dtype="float32", device="cpu")
    yield engine
    engine.close()


def chat(prompt: str) -> list[dict[str, Any]]:
    """Ask one thing about one image."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]


def ask(engine: ModelEngine, questions: list[Question]) -> list[tuple[list[int], str]]:
    """Give the ids and the text of each answer."""
    processor = Processor.from_pretrained(DIRECTORY)
    sampling = SamplingParams(max_new_tokens=MOST_TOKENS)
    requests = [
        processor.request(str(index), chat(prompt), [data], sampling)
        for index, (data, prompt) in enumerate(questions)
    ]
    return [(c.completion_ids.tolist(), c.text) for c in engine.generate(requests)]


def png(picture: Image.Image) -> bytes:
    """Encode without loss."""
    body = io.BytesIO()
    picture.save(body, "PNG")
    return body.getvalue()


def test_it_is_small() -> None:
    """It travels inside the package."""
    assert sum(path.stat().st_size for path in DIRECTORY.iterdir()) <= 16_000_000


def test_transformers_gives_the_same_greedy_ids(engine: ModelEngine) -> None:
    """With its own classes, processor and generation, from the same files: a page, a scene."""
    import transformers

    drawn = [
        (held_out.page(3_000_000), shape.TRANSCRIBE),
        (held_out.scene(3_000_000), shape.DESCRIBE),
    ]
    found = ask(engine, [(png(picture), prompt) for (picture, _), prompt in drawn])
    assert [text for _, text in found] == [wanted for (_, wanted), _ in drawn]
    reference = transformers.DeepseekVLHybridForConditionalGeneration.from_pretrained(
        DIRECTORY, dtype=torch.float32
    ).eval()
    processor = transformers.DeepseekVLHybridProcessor.from_pretrained(DIRECTORY, backend="pil")
    for ((picture, _), prompt), (ids, _) in zip(drawn, found, strict=True):
        text = processor.apply_chat_template(chat(prompt), add_generation_prompt=True)
        inputs = processor(text=text, images=[picture], return_tensors="pt")
        width = inputs["input_ids"].shape[1]
        with torch.no_grad():
            output = reference.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
        assert output[0, width:].tolist() == ids


def test_the_public_classes_load_it_by_its_name() -> None:
    """``demo`` stands for its directory there too."""
    model = DeepseekVLHybridForConditionalGeneration.from_pretrained("demo")
    processor = DeepseekVLHybridProcessor.from_pretrained("demo")
    picture, caption = held_out.scene(3_000_001)
    text = processor.apply_chat_template(chat(shape.DESCRIBE), add_generation_prompt=True)
    inputs = processor(text=text, images=[picture], return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=80, do_sample=False)
    answer = str(processor.decode(output[0], skip_special_tokens=True))
    assert answer.endswith(f"Assistant:{caption}")


def test_the_samples_are_those_that_the_script_draws() -> None:
    """File by file and picture by picture; bytes may differ between versions of encoders."""
    drawn = demo_samples.samples()
    shipped = {path.name: path.read_bytes() for path in demo_samples.SAMPLES.iterdir()}
    assert drawn.keys() == shipped.keys()
    assert sum(map(len, shipped.values())) < 400_000
    for name in [*demo_samples.PAGES, *demo_samples.SCENES]:
        ours, theirs = (np.asarray(decode.decode(files[name])) for files in (drawn, shipped))
        assert ours.shape == theirs.shape, name
        difference = np.abs(ours.astype(int) - theirs.astype(int)).mean()
        assert difference < 2, name  # of 255; typefaces are smoothed in their own way
