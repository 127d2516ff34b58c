"""The model in training is the model that is shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from dsvl_pipeline.engine.engine import ModelEngine
from dsvl_pipeline.model.checkpoint import load_model
from dsvl_pipeline.model.config import read_model_config
from dsvl_pipeline.processor.processor import Processor
from dsvl_pipeline.records import EngineConfig, SamplingParams
from tools.demo_checkpoint import export, held_out, shape, state
from tools.demo_checkpoint.batches import (
    BEFORE_ANSWER_ID,
    BEFORE_IMAGE_IDS,
    Batches,
    encode,
    prompt_id,
)
from tools.demo_checkpoint.develop import develop
from tools.demo_checkpoint.optimizer import Optimizer, orthogonalise
from tools.demo_checkpoint.reader import NUM_BEFORE_ANSWER, Reader, answer_loss, naming_loss
from tools.demo_checkpoint.state import Progress

MESSAGES = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": shape.TRANSCRIBE}]}
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights, none of them zero."""
    directory = tmp_path_factory.mktemp("checkpoint")
    shape.write(directory)
    torch.manual_seed(0)
    reader = Reader(read_model_config(directory), seed=3)
    with torch.no_grad():
        for name, parameter in reader.named_parameters():
            if "rel_pos" in name or "bias" in name:
                parameter.normal_(0, 0.1)
    export.write_weights(reader.model, directory)
    return directory


def reader_of(directory: Path) -> Reader:
    """The training model with a checkpoint's weights."""
    reader = Reader(read_model_config(directory), seed=0)
    loaded = load_model(directory, dtype=torch.float32, device="cpu")
    reader.model.load_state_dict(loaded.state_dict())
    return reader.eval().requires_grad_(False)


def test_training_prompts_are_those_of_the_chat_template(directory: Path) -> None:
    """Token for token, up to where the answer begins."""
    for prompt in (shape.TRANSCRIBE, shape.DESCRIBE):
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        ids = Processor.from_pretrained(directory).prompt_ids(
            [{"role": "user", "content": content}]
        )
        trained = [*BEFORE_IMAGE_IDS, *[shape.IMAGE_ID] * shape.NUM_IMAGE_TOKENS]
        assert ids.tolist() == [*trained, prompt_id(prompt), BEFORE_ANSWER_ID]
        assert len(ids) == NUM_BEFORE_ANSWER


def test_answers_decode_to_themselves(directory: Path) -> None:
    """Nothing is added or stripped at either end."""
    processor = Processor.from_pretrained(directory)
    for text in ("a", "Total 18.20\n~!?", "two red circles above a blue square"):
        assert processor.decode([*encode(text).tolist(), shape.EOS_ID]) == text


def test_any_text_can_be_a_prompt(directory: Path) -> None:
    """What is no phrase falls apart into bytes, and phrases within it still count."""
    processor = Processor.from_pretrained(directory)
    for text in ("Was steht da? \u00fc \u4e2d \U0001f600", f"{shape.DESCRIBE} Please."):
        assert text in processor.decode(processor.prompt_ids([{"role": "user", "content": text}]))


def test_the_forward_pass_is_the_models(directory: Path) -> None:
    """Folding relative positions into queries, and the two necks into one, changes nothing."""
    reader = reader_of(directory)
    batch = Batches(size=2, seed=0, rank=0, first=0, level=lambda: 0)[0]
    low_res, high_res = develop(batch)
    image_tokens = reader.image_tokens(low_res, high_res)
    assert_close(image_tokens, reader.model.encode_images(low_res, high_res), rtol=0, atol=2e-5)
    logits = reader.logits(image_tokens, batch["prompt"], batch["answer"])
    for index in range(2):
        prompt = [*BEFORE_IMAGE_IDS, *[shape.IMAGE_ID] * shape.NUM_IMAGE_TOKENS]
        prompt += [int(batch["prompt"][index]), BEFORE_ANSWER_ID]
        answer = batch["answer"][index].clamp(min=0).tolist()[:-1]
        ids = torch.tensor(prompt + answer)
        hidden = reader.model.embed(ids, image_tokens[index])
        hidden = reader.model.forward_dense(hidden, torch.tensor([0, len(ids)], dtype=torch.int32))
        dense = reader.model.logits(hidden)[NUM_BEFORE_ANSWER - 1 :]
        assert_close(logits[index], dense, rtol=0, atol=1e-4)


def test_all_three_implementations_answer_alike(directory: Path) -> None:
    """Training's generation, the engine, and transformers: the same greedy ids."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    image, _ = held_out.page(1)
    processor = Processor.from_pretrained(directory)
    request = processor.request("a", MESSAGES, [image], SamplingParams(max_new_tokens=12))
    engine = ModelEngine.from_checkpoint(
        directory, EngineConfig(kv_cache_gib=0.05), dtype="float32", device="cpu"
    )
    try:
        engine_ids = engine.generate([request])[0].completion_ids.tolist()
    finally:
        engine.close()
    (picture,) = request.images
    tables = processor.image_config
    assert tables.high_res is not None
    pixels = [
        torch.from_numpy(np.stack([table[c][side[..., c]] for c in range(3)]))[None]
        for table, side in (
            (tables.low_res.table, picture.low_res),
            (tables.high_res.table, picture.high_res),
        )
    ]
    prompt = torch.tensor([prompt_id(shape.TRANSCRIBE)])
    ours = reader_of(directory).generate(*pixels, prompt, 12)[0].tolist()
    assert engine_ids == ours
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    content = [{"type": "image", "image": image}, {"type": "text", "text": shape.TRANSCRIBE}]
    inputs = AutoProcessor.from_pretrained(directory).apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    theirs = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert theirs[0, NUM_BEFORE_ANSWER:].tolist() == ours


def steps(optimizer: Optimizer, reader: Reader, count: int) -> list[float]:
    """Train on ever the same small pictures; give the losses."""
    generator = torch.Generator().manual_seed(0)
    low_res, high_res = (torch.randn(1, 3, side, side, generator=generator) for side in (256, 512))
    answer = torch.full((1, 6), shape.EOS_ID)
    slots = torch.randint(0, 5, (1, 256, 6), generator=generator)
    losses = []
    for _ in range(count):
        tokens = reader.image_tokens(low_res, high_res)
        logits = reader.logits(tokens, torch.tensor([260]), answer)
        loss = answer_loss(logits, answer) + naming_loss(reader.names(tokens), slots)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step(1e-3, max_norm=1.0)
        losses.append(float(loss.detach()))
    return losses


def test_a_saved_training_goes_on_as_if_it_had_never_stopped(
    directory: Path, tmp_path: Path
) -> None:
    """Weights come back bit by bit, moments rounded to bfloat16: a hundredth of the loss."""
    config = read_model_config(directory)
    whole = Reader(config, seed=5)
    optimizer = Optimizer(whole)
    losses = steps(optimizer, whole, 1)
    state.save(tmp_path, optimizer, Progress(seed=5, num_steps=1, level=1))
    losses += steps(optimizer, whole, 2)
    resumed = Reader(config, seed=99)
    second = Optimizer(resumed)
    progress = state.load(tmp_path, second)
    assert progress == state.peek(tmp_path) == Progress(seed=5, num_steps=1, level=1)
    again = steps(second, resumed, 2)
    assert again[0] == pytest.approx(losses[1], rel=1e-6)
    assert again[1] == pytest.approx(losses[2], rel=1e-2)
    assert losses[2] < losses[0]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 60_000_000
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 15 << 20


def test_an_export_has_the_weights_of_the_state(directory: Path, tmp_path: Path) -> None:
    """Every one, rounded; fused matrices are taken apart and put together again."""
    reader = Reader(read_model_config(directory), seed=8)
    state.save(tmp_path / "state", Optimizer(reader), Progress(seed=8))
    export.export(tmp_path / "state", tmp_path / "out")
    loaded = load_model(tmp_path / "out", dtype=torch.bfloat16, device="cpu").state_dict()
    for name, value in reader.model.state_dict().items():
        assert torch.equal(loaded[name], value.bfloat16()), name


def test_a_state_of_another_model_is_refused(directory: Path, tmp_path: Path) -> None:
    """Its bytes would fit somewhere, and mean nothing."""
    reader = Reader(read_model_config(directory), seed=8)
    state.save(tmp_path, Optimizer(reader), Progress(seed=8))
    with pytest.raises(ValueError, match="of another model than this one"):
        state.load(tmp_path, Optimizer(torch.nn.Linear(4, 4)))


def test_orthogonalising_brings_singular_values_near_one() -> None:
    """Of tall matrices as of wide ones."""
    matrices = torch.randn(2, 24, 9, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_a_training_runs_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two segments of a step each; the second starts where the first one stopped."""
    # Torch's compiler takes 2 s to import, in each process that collects this file.
    from tools.demo_checkpoint import train

    arguments = ["--state", str(tmp_path), "--batch-size", "1", "--workers", "0"]
    for num_steps in ("1", "2"):
        train.main([*arguments, "--exam-size", "0", "--max-steps", num_steps])
    assert "from step 1, level 0" in capsys.readouterr().out
    progress = state.peek(tmp_path)
    assert progress is not None
    assert (progress.num_steps, progress.num_pages) == (2, 2)
