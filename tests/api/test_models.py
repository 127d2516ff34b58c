"""The public models against those of transformers, on the same random weights."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import dsvl_pipeline
from dsvl_pipeline.engine.device import memory
from dsvl_pipeline.errors import PromptError
from tests.api.examples import FAMILIES, family_name, user, write_pictures
from tests.checkpoints import EOS_TOKEN_ID, NUM_IMAGE_TOKENS, write_checkpoint

INPUTS = {
    "add_generation_prompt": True,
    "tokenize": True,
    "return_dict": True,
    "return_tensors": "pt",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures, and room for checkpoints."""
    root = tmp_path_factory.mktemp("models")
    write_pictures(root)
    return root


@pytest.fixture(scope="module")
def urls(root: Path) -> list[str]:
    """Paths of the pictures."""
    return sorted(map(str, root.glob("*.png")))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each of the two."""
    return str(request.param)


@pytest.fixture(scope="module")
def reference(family: str, root: Path) -> Any:
    """The class of transformers whose weights the checkpoint holds."""
    return write_checkpoint(root / family, is_hybrid=family == "hybrid")


@pytest.fixture(scope="module")
def model(family: str, root: Path, reference: Any) -> Any:
    """Ours, in float32."""
    assert reference is not None  # it writes the files
    kind = getattr(dsvl_pipeline, family_name(family, "ForConditionalGeneration"))
    return kind.from_pretrained(root / family, dtype=torch.float32)


@pytest.fixture(scope="module")
def inputs(family: str, root: Path, model: Any, urls: list[str]) -> Any:
    """Unequal prompts with 0, 1 and 3 images."""
    assert model is not None
    kind = getattr(dsvl_pipeline, family_name(family, "Processor"))
    chats = [
        user("Say something about nothing at all, please, and take your time."),
        user("What?", urls[0]),
        user("Compare these three.", *urls),
    ]
    return kind.from_pretrained(root / family).apply_chat_template(chats, **INPUTS)


def test_logits_equal_the_reference(model: Any, reference: Any, inputs: Any) -> None:
    """Over whole tensors, in float32, padding included."""
    with torch.no_grad():
        wanted, found = reference(**inputs), model(**inputs)
    assert_close(found.logits, wanted.logits, rtol=0, atol=1e-4)
    assert_close(found.image_hidden_states, wanted.image_hidden_states, rtol=0, atol=1e-4)


def test_the_model_without_head_gives_hidden_states(
    family: str, root: Path, reference: Any, inputs: Any
) -> None:
    """Behind the final norm, as the reference does."""
    kind = getattr(dsvl_pipeline, family_name(family, "Model"))
    model = kind.from_pretrained(root / family, dtype="float32").eval()
    with torch.no_grad():
        found, wanted = model.forward(**inputs), reference.model(**inputs)
    assert_close(found.last_hidden_state, wanted.last_hidden_state, rtol=0, atol=1e-4)


def test_image_features_equal_the_reference(model: Any, reference: Any, inputs: Any) -> None:
    """``pooler_output`` is what takes the place of image tokens."""
    pixels = {key: value for key, value in inputs.items() if "pixel" in key}
    with torch.no_grad():
        wanted = reference.model.get_image_features(**pixels).pooler_output
    found = model.get_image_features(**pixels).pooler_output
    assert found.shape == (4, NUM_IMAGE_TOKENS, 64)
    assert_close(found, wanted, rtol=0, atol=1e-4)


def test_text_alone_needs_no_pictures(model: Any, reference: Any, inputs: Any) -> None:
    """And no attention mask, where nothing is padded."""
    ids = inputs.input_ids[:1, -20:]
    with torch.no_grad():
        wanted = reference(input_ids=ids).logits
    found = model(ids)
    assert found.image_hidden_states is None
    assert_close(found.logits, wanted, rtol=0, atol=1e-4)


def generate_both(model: Any, reference: Any, inputs: Any, **options: Any) -> tuple[Any, Any]:
    """Ours and theirs."""
    return model.generate(**inputs, **options), reference.generate(**inputs, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 24},
        {"max_new_tokens": 12, "repetition_penalty": 1.3},
        {"max_length": 310},
        {},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
def test_greedy_ids_equal_the_reference(
    model: Any, reference: Any, inputs: Any, options: dict[str, Any]
) -> None:
    """For a batch of unequal prompts with 0, 1 and 3 images."""
    reference.generation_config.pad_token_id = EOS_TOKEN_ID
    found, wanted = generate_both(model, reference, inputs, do_sample=False, **options)
    assert found.dtype == torch.int64
    assert found.tolist() == wanted.tolist()


def test_answers_that_end_early_are_padded_on_the_right(
    model: Any, reference: Any, inputs: Any
) -> None:
    """With the end of sequence kept, and the pad id behind it."""
    ends, width = early_ends(model, inputs), inputs.input_ids.shape[1]
    for pad in (5, 7):
        options = {"eos_token_id": ends, "pad_token_id": pad, "max_new_tokens": 16}
        found, wanted = generate_both(model, reference, inputs, do_sample=False, **options)
        assert found.tolist() == wanted.tolist()
        assert (found[:, width:] == pad).any()
    one = model.generate(**inputs, eos_token_id=ends[0], max_new_tokens=16)
    assert one.tolist() == model.generate(**inputs, eos_token_id=ends, max_new_tokens=16).tolist()


def early_ends(model: Any, inputs: Any) -> list[int]:
    """Find ids that end the first answer before the last: its second one, and one it lacks."""
    plain = model.generate(**inputs, max_new_tokens=16)[:, inputs.input_ids.shape[1] :].tolist()
    return [list(dict.fromkeys(plain[0]))[1], EOS_TOKEN_ID]


def test_without_a_pad_id_the_first_end_pads(
    monkeypatch: pytest.MonkeyPatch, model: Any, reference: Any, inputs: Any
) -> None:
    """The original checkpoints name none."""
    ends = early_ends(model, inputs)
    set_defaults(monkeypatch, model, reference, pad_token_id=None)
    for ids in (ends, ends[::-1]):
        options = {"eos_token_id": ids, "max_new_tokens": 16, "do_sample": False}
        found, wanted = generate_both(model, reference, inputs, **options)
        assert found.tolist() == wanted.tolist()
        assert found[0, -1] == ids[0]


def set_defaults(
    monkeypatch: pytest.MonkeyPatch, model: Any, reference: Any, **defaults: Any
) -> None:
    """Change what both would have read from generation_config.json."""
    theirs = copy.deepcopy(reference.generation_config)
    theirs.update(**defaults)
    monkeypatch.setattr(reference, "generation_config", theirs)
    ours = copy.deepcopy(model.generation_config)
    ours.update(**defaults)
    monkeypatch.setattr(model, "generation_config", ours)


@pytest.mark.parametrize("options", [{}, {"max_length": 310}, {"max_new_tokens": 3}], ids=str)
def test_the_files_number_of_new_tokens_is_used_as_the_reference_does(
    monkeypatch: pytest.MonkeyPatch,
    model: Any,
    reference: Any,
    inputs: Any,
    options: dict[str, int],
) -> None:
    """It wins over a max_length, even over one that is an argument."""
    set_defaults(monkeypatch, model, reference, max_new_tokens=7, pad_token_id=EOS_TOKEN_ID)
    found, wanted = generate_both(model, reference, inputs, do_sample=False, **options)
    assert found.tolist() == wanted.tolist()


@pytest.mark.parametrize("pad", [5, EOS_TOKEN_ID])
def test_a_mask_that_is_not_given_is_inferred_as_the_reference_does(
    monkeypatch: pytest.MonkeyPatch, model: Any, reference: Any, pad: int
) -> None:
    """From the pad id, unless it is an end of sequence as well."""
    ids = torch.randint(10, 259, (2, 30), generator=torch.Generator().manual_seed(1))
    ids[0, :9] = pad
    set_defaults(monkeypatch, model, reference, pad_token_id=pad)
    options = {"max_new_tokens": 8, "do_sample": False}
    found, wanted = generate_both(model, reference, {"input_ids": ids}, **options)
    assert found.tolist() == wanted.tolist()
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    masked = model.generate(ids, attention_mask=mask, **options)
    assert (found.tolist() == masked.tolist()) == (pad == 5)


def test_any_tokens_may_be_masked(model: Any, reference: Any) -> None:
    """On both sides, and in the middle, where the positions go on."""
    ids = torch.arange(10, 22).view(2, 6)
    for row in ([0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 0], [1, 1, 0, 1, 0, 1]):
        mask = torch.tensor([[1] * 6, row])
        with torch.no_grad():
            found, wanted = model(ids, attention_mask=mask), reference(ids, attention_mask=mask)
        assert_close(found.logits, wanted.logits, rtol=0, atol=1e-4)


def test_generate_takes_the_memory_that_its_answers_need(
    monkeypatch: pytest.MonkeyPatch, model: Any, inputs: Any
) -> None:
    """A fixed amount would refuse long answers of large models."""
    monkeypatch.setattr(memory, "_CPU_GIB", 0.0)
    found = model.generate(**inputs, max_new_tokens=100)
    assert found.shape == (3, inputs.input_ids.shape[1] + 100)
    # as far as the model's context goes
    ids = torch.randint(10, 259, (1, 500), generator=torch.Generator().manual_seed(1))
    assert model.generate(ids, max_new_tokens=10**9).shape[1] <= 512


def test_pictures_that_differ_in_high_resolution_alone_are_told_apart(
    family: str, model: Any, inputs: Any
) -> None:
    """Features are kept by the digest of what both towers see."""
    if family == "single":
        return
    ids = inputs.input_ids[1:2].repeat(2, 1)
    mask = inputs.attention_mask[1:2].repeat(2, 1)
    low = inputs.pixel_values[:1].repeat(2, 1, 1, 1)
    high = inputs.high_res_pixel_values[:2].clone()
    high[1] = -3 * high[0]
    pair = {"attention_mask": mask, "pixel_values": low, "high_res_pixel_values": high}
    both = model.generate(ids, **pair, max_new_tokens=12)
    for row in range(2):
        one = {key: value[row : row + 1] for key, value in pair.items()}
        alone = model.generate(ids[:1], **one, max_new_tokens=12)
        assert both[row].tolist() == alone[0].tolist()
    assert both[0].tolist() != both[1].tolist()


def test_what_the_files_defaults_ask_for_is_done_or_refused(
    monkeypatch: pytest.MonkeyPatch, model: Any, inputs: Any
) -> None:
    """Never silently left out; refused only by what would have to do it."""
    config = copy.deepcopy(model.generation_config)
    monkeypatch.setattr(model, "generation_config", config)
    greedy = model.generate(**inputs, max_new_tokens=8)
    config.update(do_sample=True, top_k=0, min_p=0.999)
    assert model.generate(**inputs, max_new_tokens=8).tolist() == greedy.tolist()
    config.update(guidance_scale=4.0, top_h=0.5)
    with pytest.raises(ValueError, match=r"cannot do guidance_scale=4\.0, top_h=0\.5"):
        model.generate(**inputs)


def test_sampling_follows_torchs_seed(model: Any, inputs: Any) -> None:
    """``torch.manual_seed`` repeats a call; rows and calls differ otherwise."""
    twice = {key: torch.cat([value, value]) for key, value in inputs.items()}
    options = {"do_sample": True, "max_new_tokens": 12, "temperature": 1.5, "top_k": 0}
    torch.manual_seed(3)
    first = model.generate(**twice, **options)
    second = model.generate(**twice, **options)
    torch.manual_seed(3)
    assert model.generate(**twice, **options).tolist() == first.tolist()
    assert second.tolist() != first.tolist()
    half = len(first) // 2
    assert first[:half].tolist() != first[half:].tolist()


@pytest.mark.parametrize("filters", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 0.999}], ids=str)
def test_the_narrowest_filter_is_greedy(model: Any, inputs: Any, filters: dict[str, float]) -> None:
    """Every filter reaches the engine."""
    options = {"max_new_tokens": 8, "do_sample": True, "top_k": 0, **filters}
    found = model.generate(**inputs, **options)
    assert found.tolist() == model.generate(**inputs, max_new_tokens=8).tolist()


def test_a_greedy_call_leaves_torchs_generator_alone(model: Any, inputs: Any) -> None:
    """As in the reference."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    model.generate(**inputs, max_new_tokens=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_wrong_arguments_are_named(model: Any, inputs: Any) -> None:
    """None is silently ignored."""
    with pytest.raises(ValueError, match="does not know the arguments 'beams'"):
        model.generate(**inputs, beams=4)
    width = inputs.input_ids.shape[1]
    with pytest.raises(ValueError, match=f"prompts take {width} tokens, but max_length is 9"):
        model.generate(**inputs, max_length=9)
    with pytest.raises(ValueError, match="image tokens for 4 images, but pixel_values holds 0"):
        model.generate(inputs.input_ids, attention_mask=inputs.attention_mask)
    high = inputs.get("high_res_pixel_values")
    other = None if high is not None else inputs.pixel_values
    with pytest.raises(ValueError, match="high_res_pixel_values were given"):
        model.get_image_features(inputs.pixel_values, other)
    long = torch.full((1, 600), 9)
    with pytest.raises(PromptError, match="prompt 0: the prompt has 600 tokens") as caught:
        model.generate(long)
    assert caught.value.code == "prompt_too_long"


@pytest.mark.usefixtures("reference")  # which writes the checkpoint
def test_dtype_and_device_are_chosen_as_the_reference_does(family: str, root: Path) -> None:
    """By default the checkpoint's own dtype, on the CPU."""
    kind = getattr(dsvl_pipeline, family_name(family, "Model"))
    assert kind.from_pretrained(root / family).dtype == torch.float32
    half = kind.from_pretrained(root / family, torch_dtype="bfloat16", device_map="cpu")
    assert (half.dtype, half.device) == (torch.bfloat16, torch.device("cpu"))
    assert half.to(torch.float32).dtype == torch.float32
    placed = kind.from_pretrained(root / family, dtype="auto", device_map={"": "cpu"})
    assert placed.device == torch.device("cpu")
    with pytest.raises(ValueError, match="dtype is 'float33'; it must be a torch dtype"):
        kind.from_pretrained(root / family, dtype="float33")


@pytest.mark.usefixtures("reference")  # which writes the checkpoint
def test_the_usage_example_with_one_image(family: str, root: Path, urls: list[str]) -> None:
    """Only imports, path and image URL differ from the reference documentation's."""
    processor = getattr(dsvl_pipeline, family_name(family, "Processor")).from_pretrained(
        root / family
    )
    model = getattr(dsvl_pipeline, family_name(family, "ForConditionalGeneration")).from_pretrained(
        root / family, torch_dtype=torch.bfloat16, device_map="auto", attn_implementation="sdpa"
    )
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image", "url": urls[0]},
                {"type": "text", "text": "Describe this image."},
            ],
        }
    ]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.device, dtype=torch.bfloat16)
    output = model.generate(**inputs, max_new_tokens=40, do_sample=True)
    width = inputs.input_ids.shape[1]
    assert output.shape[0] == 1
    assert width < output.shape[1] <= width + 40
    assert output[0, :width].tolist() == inputs.input_ids[0].tolist()
    text = processor.decode(output[0], skip_special_tokens=True)
    assert "User: Describe this image.\n\nAssistant:" in text


@pytest.mark.usefixtures("reference")  # which writes the checkpoint
def test_the_usage_example_with_two_conversations(family: str, root: Path, urls: list[str]) -> None:
    """Two images and one, no padding argument."""
    processor = getattr(dsvl_pipeline, family_name(family, "Processor")).from_pretrained(
        root / family
    )
    model = getattr(dsvl_pipeline, family_name(family, "ForConditionalGeneration")).from_pretrained(
        root / family, torch_dtype=torch.bfloat16, device_map="auto"
    )
    messages = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What's the difference between"},
                    {"type": "image", "url": urls[0]},
                    {"type": "text", "text": " and "},
                    {"type": "image", "url": urls[1]},
                ],
            }
        ],
        user("What do you see in this image?", urls[2]),
    ]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.device, dtype=torch.bfloat16)
    assert inputs.pixel_values.shape[0] == 3
    output = model.generate(**inputs, max_new_tokens=40, do_sample=True)
    texts = processor.batch_decode(output, skip_special_tokens=True)
    assert "What's the difference between and \n\nAssistant:" in texts[0]
    assert "What do you see in this image?\n\nAssistant:" in texts[1]


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "said",
    [{}, {"dtype": None}, {"torch_dtype": "float16"}, {"dtype": "float32"}],
    ids=str,
)
def test_the_default_dtype_is_that_of_the_reference(
    tmp_path: Path, stored: torch.dtype, said: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """Published configs say float16; where one says nothing its weights do."""
    import transformers

    directory = tmp_path / "checkpoint"
    write_checkpoint(directory, dtype=stored, is_hybrid=False)
    path = directory / "config.json"
    config = {k: v for k, v in json.loads(path.read_text()).items() if k != "dtype"}
    path.write_text(json.dumps(config | said))
    reference = transformers.DeepseekVLForConditionalGeneration.from_pretrained(directory)
    capfd.readouterr()  # its progress bar
    found = dsvl_pipeline.DeepseekVLForConditionalGeneration.from_pretrained(directory)
    assert found.dtype == reference.dtype
