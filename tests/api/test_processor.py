"""The public processors against those of transformers, over the same files."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import dsvl_pipeline
from dsvl_pipeline.errors import CheckpointError, PromptError
from tests.api.examples import FAMILIES, answer, family_name, user, write_pictures
from tests.checkpoints import write_checkpoint
from tools.demo_checkpoint.files import EOS, IMAGE


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each family, and three pictures."""
    root = tmp_path_factory.mktemp("api")
    for family in FAMILIES:
        write_checkpoint(root / family, is_hybrid=family == "hybrid")
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
def processor(family: str, root: Path) -> Any:
    """Ours."""
    return getattr(dsvl_pipeline, family_name(family, "Processor")).from_pretrained(root / family)


@pytest.fixture(scope="module")
def reference(family: str, root: Path) -> Any:
    """That of transformers, with its PIL image processor."""
    import transformers
    from transformers.models.deepseek_vl import image_processing_pil_deepseek_vl as single
    from transformers.models.deepseek_vl_hybrid import image_processing_pil_deepseek_vl_hybrid

    name = family_name(family, "Processor")
    found = getattr(transformers, name).from_pretrained(root / family)
    home = single if family == "single" else image_processing_pil_deepseek_vl_hybrid
    kind = getattr(home, family_name(family, "ImageProcessorPil"))
    found.image_processor = kind.from_pretrained(root / family)
    return found


def assert_same(found: Any, wanted: Any) -> None:
    """Equal keys, shapes, types and values."""
    assert {*found} == {*wanted}
    for key in wanted:
        assert_close(found[key], wanted[key], rtol=0, atol=0)


OPTIONS = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}


@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_one_conversation_equals_the_reference(
    processor: Any, reference: Any, urls: list[str], num_images: int
) -> None:
    """All tensors, bit by bit."""
    messages = user("What is in these pictures?", *urls[:num_images])
    found = processor.apply_chat_template(messages, return_tensors="pt", **OPTIONS)
    assert_same(found, reference.apply_chat_template(messages, return_tensors="pt", **OPTIONS))


@pytest.mark.parametrize("padding", [{}, {"padding": True}, {"padding": True, "truncation": True}])
def test_several_conversations_are_padded_on_the_left(
    processor: Any, reference: Any, urls: list[str], padding: dict[str, bool]
) -> None:
    """With or without being asked: tensors cannot be ragged."""
    chats = [user("One?", *urls[:2]), user("And the other one?", urls[2]), user("Hm")]
    found = processor.apply_chat_template(chats, return_tensors="pt", **OPTIONS, **padding)
    reference.tokenizer.padding_side = "left"
    wanted = reference.apply_chat_template(chats, return_tensors="pt", padding=True, **OPTIONS)
    assert_same(found, wanted)
    assert found.attention_mask[2, 0] == 0
    assert (found.attention_mask[:, -1] == 1).all()


def test_text_and_ids_alone_can_be_had(processor: Any, reference: Any, urls: list[str]) -> None:
    """By the reference's two flags."""
    chats = [user("One?", urls[0]), user("Two")]
    assert processor.apply_chat_template(chats) == reference.apply_chat_template(chats)
    one = processor.apply_chat_template(chats[0], add_generation_prompt=True)
    assert one == reference.apply_chat_template(chats[0], add_generation_prompt=True)
    ids = processor.apply_chat_template(chats, tokenize=True)
    assert_close(
        ids,
        processor.apply_chat_template(
            chats, **OPTIONS | {"add_generation_prompt": False}
        ).input_ids,
    )
    ragged = processor.apply_chat_template(chats, tokenize=True, return_tensors=None)
    assert [len(row) for row in ragged] == [len(row) - (row == 1).sum() for row in ids]
    padded = processor.apply_chat_template(
        chats, tokenize=True, return_tensors=None, padding="longest"
    )
    assert padded == ids.tolist()


def test_text_and_images_may_come_apart(processor: Any, reference: Any, urls: list[str]) -> None:
    """The reference's older way: the text is trusted, its placeholders count."""
    texts = [f"User: {IMAGE}{IMAGE}What?\n\nAssistant:", "User: Hm\n\nAssistant:"]
    images = [Image.open(url) for url in urls[:2]]
    found = processor(text=texts, images=images, return_tensors="pt")
    reference.tokenizer.padding_side = "left"
    assert_same(found, reference(text=texts, images=images, return_tensors="pt", padding=True))
    only = processor(images=images, return_tensors="pt")
    assert_close(only.pixel_values, found.pixel_values, rtol=0, atol=0)
    with pytest.raises(PromptError, match=r"2 image placeholders .* but 1 image given") as caught:
        processor(text=texts, images=images[:1])
    assert caught.value.code == "image_count"


def test_pictures_come_from_anywhere(processor: Any, urls: list[str]) -> None:
    """Path, file URL, picture, bytes, array: one picture, one result."""
    path = Path(urls[0])
    with Image.open(path) as image:
        image.load()
    wanted = processor.image_processor(image, return_tensors="np")
    for source in (urls[0], path, path.as_uri(), path.read_bytes(), np.asarray(image), ([image],)):
        found = processor.image_processor(source, return_tensors="np")
        for key in wanted:
            np.testing.assert_array_equal(found[key], wanted[key])
    for part in ({"image": image}, {"image": urls[0]}, {"url": path.as_uri()}, {"path": urls[0]}):
        chat = [{"role": "user", "content": [{"type": "image", **part}]}]
        found = processor.apply_chat_template(chat, return_tensors="np", **OPTIONS)
        np.testing.assert_array_equal(found["pixel_values"], wanted["pixel_values"])


def test_image_parts_need_their_picture(processor: Any) -> None:
    """A placeholder alone would be filled with the next conversation's picture."""
    chat = [{"role": "user", "content": [{"type": "image"}]}]
    assert IMAGE in processor.apply_chat_template(chat)
    with pytest.raises(PromptError, match="1 image part, but names 0 pictures") as caught:
        processor.apply_chat_template(chat, tokenize=True)
    assert caught.value.code == "image_count"


def test_control_tokens_in_a_chat_stay_text(processor: Any) -> None:
    """The reference takes them for its own."""
    inputs = processor.apply_chat_template(user(IMAGE + EOS), **OPTIONS)
    assert (inputs.input_ids == processor.image_token_id).sum() == 0
    assert IMAGE + EOS in processor.decode(inputs.input_ids[0], skip_special_tokens=True)


def test_decoding_equals_the_reference(processor: Any, reference: Any) -> None:
    """Of rows of tensors, with and without what an end of sequence leaves."""
    ids = processor(text=["Hi there .", "Well , I do n't know !" + EOS]).input_ids
    for options in (
        {},
        {"skip_special_tokens": True},
        {"skip_special_tokens": True, "clean_up_tokenization_spaces": True},
    ):
        found = processor.batch_decode(ids, **options)
        assert found == reference.batch_decode(ids, **options)
        assert found[1] == processor.decode(ids[1].tolist(), **options)


def test_rows_of_ids_decode_to_a_list_as_the_reference_does(processor: Any, reference: Any) -> None:
    """Of tensors, arrays and lists, of equal length and not; one row is one text in a list."""
    ids = torch.tensor([[72, 80, 90], [100, 110, 120]])
    for rows in (ids, ids[:1], ids.numpy(), ids.tolist(), [[72], [80, 90]], ids[0], [72, 80], 72):
        assert processor.decode(rows) == reference.decode(rows)
    for rows in (ids, list(ids), ids.tolist(), ids[0], [[72], [80, 90]]):
        assert processor.batch_decode(rows) == reference.batch_decode(rows)


def test_inputs_are_moved_and_only_floats_cast(processor: Any, urls: list[str]) -> None:
    """``.to(device, dtype=...)`` of the examples must leave ids integers."""
    inputs = processor.apply_chat_template(user("What?", urls[0]), **OPTIONS)
    moved = inputs.to("cpu", dtype=torch.bfloat16)
    assert moved is inputs
    assert moved.pixel_values.dtype == torch.bfloat16
    assert moved["input_ids"].dtype == moved.attention_mask.dtype == torch.int64
    assert {**moved}.keys() == {**inputs}.keys()
    assert inputs.to(torch.float32).pixel_values.dtype == torch.float32
    assert inputs.to("meta").pixel_values.device.type == "meta"
    with pytest.raises(AttributeError, match="no 'labels'; there are input_ids"):
        _ = inputs.labels


def test_a_checkpoint_of_the_other_family_is_refused(family: str, root: Path) -> None:
    """With the name of the class that takes it."""
    other = next(one for one in FAMILIES if one != family)
    for kind in ("Config", "Processor", "ImageProcessor", "Model", "ForConditionalGeneration"):
        name = family_name(family, kind)
        with pytest.raises(CheckpointError, match=f"use {family_name(other, kind)}$"):
            getattr(dsvl_pipeline, name).from_pretrained(root / other)


def test_unknown_kinds_of_tensors_are_refused(processor: Any) -> None:
    """Only torch and numpy are here."""
    with pytest.raises(ValueError, match="return_tensors is 'tf'; it must be 'pt', 'np' or None"):
        processor(text="x", return_tensors="tf")


CHATS = [user("One?"), [*user("And two, a longer one?"), *answer("Yes.")]]


@pytest.mark.parametrize(
    "options",
    [
        {"padding": True, "padding_side": "right"},
        {"padding": "max_length", "max_length": 300},
        {"padding": "max_length", "max_length": 30, "truncation": True},
        {"padding": True, "add_special_tokens": False},
        {"text_kwargs": {"padding": "max_length", "max_length": 300}},
        {"padding": True, "return_mm_token_type_ids": True},
    ],
    ids=str,
)
def test_options_of_a_call_do_what_the_reference_does(
    processor: Any, reference: Any, urls: list[str], options: dict[str, Any]
) -> None:
    """Flat, and in the dictionary for them."""
    reference.tokenizer.padding_side = "left"
    chats = CHATS if "truncation" in options else [user("A", urls[0]), *CHATS]
    found = processor.apply_chat_template(chats, **OPTIONS, processor_kwargs=options)
    assert_same(found, reference.apply_chat_template(chats, **OPTIONS, processor_kwargs=options))
    if "text_kwargs" not in options:
        assert_same(processor.apply_chat_template(chats, **OPTIONS, **options), found)


def test_options_are_checked(processor: Any, urls: list[str]) -> None:
    """Given twice, unknown, or such that a picture would not be whole."""
    with pytest.raises(ValueError, match="padding was given twice"):
        processor(text="x", padding=True, text_kwargs={"padding": False})
    with pytest.warns(UserWarning, match="no option 'paddign'; it is ignored"):
        processor(text="x", paddign=True)
    with pytest.raises(ValueError, match="image tokens, and its pictures would not fit it"):
        processor(text=f"abc{IMAGE}", images=urls[0], truncation=True, max_length=5)
    with pytest.raises(ValueError, match="needs a text, or images, or both"):
        processor()
    with pytest.raises(ValueError, match="videos and audio cannot be given"):
        processor(text="x", videos=[1])
    with pytest.raises(ValueError, match="a string or a list of strings"):
        processor(text=[["x"]])
    with pytest.raises(
        TypeError, match=r"tokenizer is a .*ImageProcessor, which has no batch_deco"
    ):
        type(processor)(processor.image_processor, processor.image_processor)


def test_the_last_message_can_be_continued(processor: Any, reference: Any) -> None:
    """Its text is the end, trimmed as the template trims it."""
    for last in ("It is", "It is ", "Yes"):
        chat = [*user("What? Yes"), *answer(last)]
        found = processor.apply_chat_template(chat, continue_final_message=True)
        assert found == reference.apply_chat_template(chat, continue_final_message=True)
        assert found.endswith(last.rstrip())
    for wrong in ({"add_generation_prompt": True}, {"return_assistant_tokens_mask": True}):
        with pytest.raises(ValueError, match="exclude each other"):
            processor.apply_chat_template(CHATS[1], continue_final_message=True, **wrong)
    pictures_only = [{"role": "user", "content": [{"type": "image", "url": "x"}]}]
    with pytest.raises(PromptError, match="no text to continue"):
        processor.apply_chat_template(pictures_only, continue_final_message=True)


MARKING = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'][0]['text'] + ending }}{% endgeneration %}"
    "{% else %}{% for part in message['content'] %}"
    "{{ '" + IMAGE + "' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{% endif %}{% endfor %}"
)


def test_another_template_marks_what_the_assistant_says(
    processor: Any, reference: Any, urls: list[str]
) -> None:
    """With variables of its own; pictures before shift the marks."""
    chats = [[*user("What?", urls[0]), *answer("A cat"), *user("And?"), *answer("A dog")], CHATS[1]]
    more = {"chat_template": MARKING, "return_assistant_tokens_mask": True, "ending": EOS}
    options = OPTIONS | {"add_generation_prompt": False, "padding": True}
    found = processor.apply_chat_template(chats, **options, **more)
    reference.tokenizer.padding_side = "left"
    wanted = reference.apply_chat_template(chats, return_tensors="pt", **options, **more)
    # in variables, as in what chats say, control tokens are text here
    assert found.input_ids.shape[1] > wanted["input_ids"].shape[1]
    marked = found.input_ids[0][found.assistant_masks[0].bool()]
    assert processor.decode(marked) == f"A cat{EOS}A dog{EOS}"
    more["ending"] = "!"
    found = processor.apply_chat_template(chats, **options, **more)
    wanted = reference.apply_chat_template(chats, return_tensors="pt", **options, **more)
    wanted["assistant_masks"] = torch.as_tensor(wanted["assistant_masks"])
    assert_same(found, wanted)


def test_several_templates_have_names(processor: Any, root: Path, tmp_path: Path) -> None:
    """Also in files."""
    own = type(processor)(
        processor.image_processor, processor.tokenizer, {"default": "a", "b": "c"}
    )
    assert own.apply_chat_template(CHATS[0]) == "a"
    assert own.apply_chat_template(CHATS[0], chat_template="b") == "c"
    assert own.apply_chat_template(CHATS[0], chat_template="d") == "d"
    own.save_pretrained(tmp_path)
    assert type(processor).from_pretrained(tmp_path).chat_template == own.chat_template
    own.chat_template = {"default": "a", "../../other": "x"}
    with pytest.raises(ValueError, match="no plain file name"):
        own.save_pretrained(tmp_path)
    own.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        own.apply_chat_template(CHATS[0])


def test_contents_may_be_texts_or_missing(processor: Any, reference: Any) -> None:
    """A text is one part; templates of language models get it as it is."""
    chat = [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": None}]
    assert "User: Hm?\n\nAssistant:" in processor.apply_chat_template(chat[:1]) + "\n\nAssistant:"
    processor.apply_chat_template(chat)
    source = "{% for m in messages %}{{ m['content'] + '!' }}{% endfor %}"
    assert processor.apply_chat_template(chat[:1], chat_template=source) == "Hm?!"
    for wrong in ([], "text", [["x"]]):
        with pytest.raises((PromptError, AttributeError)):
            processor.apply_chat_template(wrong)


def test_it_saves_what_both_load(
    processor: Any, reference: Any, urls: list[str], tmp_path: Path
) -> None:
    """Ours by transformers and theirs by us, with equal outputs."""
    (file,) = processor.save_pretrained(tmp_path / "ours")
    assert Path(file).name == "processor_config.json"
    reference.save_pretrained(tmp_path / "theirs")
    wanted = reference.apply_chat_template(user("What?", *urls), return_tensors="pt", **OPTIONS)
    for kind, name in (
        (type(processor), "ours"),
        (type(processor), "theirs"),
        (type(reference), "ours"),
    ):
        found = kind.from_pretrained(tmp_path / name)
        assert json.loads(found.to_json_string()) == json.loads(processor.to_json_string())
        chat = found.apply_chat_template(user("What?", *urls), return_tensors="pt", **OPTIONS)
        assert_same(chat, wanted)


def test_it_is_made_of_parts_of_transformers_too(
    processor: Any, reference: Any, urls: list[str]
) -> None:
    """And follows what is changed about them."""
    tokenizer = copy.deepcopy(reference.tokenizer)
    made = type(processor)(
        reference.image_processor, tokenizer, reference.chat_template, processor.num_image_tokens
    )
    assert made.tokenizer is tokenizer
    chats = [user("A", urls[0]), *CHATS]
    for side in ("right", "left"):
        tokenizer.padding_side = reference.tokenizer.padding_side = side
        found = made.apply_chat_template(chats, padding=True, **OPTIONS)
        assert_same(
            found,
            reference.apply_chat_template(chats, processor_kwargs={"padding": True}, **OPTIONS),
        )
    inputs = made.apply_chat_template(user(IMAGE + EOS), **OPTIONS)
    assert (inputs.input_ids == made.image_token_id).sum() == 0
    assert made.batch_decode([[70, 1]]) == reference.batch_decode([[70, 1]])


def test_parts_can_be_replaced_on_loading(processor: Any, root: Path, family: str) -> None:
    """By objects, or in some of their settings; weights are not asked for."""
    kind = type(processor)
    directory = root / family
    own = kind.from_pretrained(directory, image_processor=processor.image_processor)
    assert own.image_processor is processor.image_processor
    other = kind.from_pretrained(
        directory, do_normalize=False, sep_token="(SEP)", padding_side="right", max_length=9
    )
    assert other.image_processor.do_normalize is False
    assert other.tokenizer.sep_token == "(SEP)"
    assert other(text=["a" * 20, "b"], truncation=True).input_ids[1, -1] == other.pad_token_id
    assert other(text="a" * 20).input_ids.shape == (1, 9)
    assert kind.from_pretrained(directory, chat_template="x").chat_template == "x"
    assert processor.model_input_names == [
        *processor.image_processor.model_input_names,
        *("input_ids", "attention_mask"),
    ]
    assert processor.post_process_image_text_to_text(torch.tensor([[70, 1]])) == ["d"]


def test_it_goes_to_other_processes(processor: Any, urls: list[str]) -> None:
    """As data loaders want it."""
    chat = user("What?", urls[0])
    wanted = processor.apply_chat_template(chat, **OPTIONS)
    for other in (copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        assert_same(other.apply_chat_template(chat, **OPTIONS), wanted)
    assert_same(pickle.loads(pickle.dumps(wanted)), wanted)


def test_loading_from_the_hub_downloads_no_weights(
    processor: Any, root: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the processor and of its parts."""
    import huggingface_hub

    asked: list[list[str]] = []

    def download(_: str, *, allow_patterns: list[str], **__: Any) -> str:
        asked.append(allow_patterns)
        return str(root / family)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for kind in (type(processor), type(processor.image_processor), type(processor.tokenizer)):
        kind.from_pretrained("some/model", revision="main", token="x")
    assert len(asked) == 3
    assert not any("safetensors" in pattern for patterns in asked for pattern in patterns)
