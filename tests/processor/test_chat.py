"""Chats: the ids of the reference for harmless text, and no control token out of any text."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsvl_pipeline.errors import CheckpointError, PromptError
from dsvl_pipeline.processor.chat import read_template
from dsvl_pipeline.processor.processor import Processor
from tests.processor.vocabularies import DEMO, KINDS, edit, write_checkpoint
from tools.demo_checkpoint.files import BOS, EOS, IMAGE

ALL_KINDS = ["demo", *KINDS]
IMAGE_PART = {"type": "image"}
CHATS = {
    "no image": [{"role": "user", "content": [{"type": "text", "text": " What is 12 + 345?\n"}]}],
    "one image": [
        {
            "role": "user",
            "content": [IMAGE_PART, {"type": "text", "text": "Für über Straße, 你好 🙂\t end "}],
        }
    ],
    "three images, several turns": [
        {"role": "system", "content": [{"type": "text", "text": "Answer in one word."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "  Compare"},
                IMAGE_PART,
                {"type": "text", "text": "with "},
                IMAGE_PART,
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "They  differ."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And"},
                {"type": "text", "text": "this? \n\n "},
                IMAGE_PART,
            ],
        },
    ],
}


def user(text: str, *, num_images: int = 0) -> list[dict[str, Any]]:
    """A chat of one message."""
    parts = [IMAGE_PART] * num_images
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


@pytest.fixture(scope="module")
def processors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Processor]:
    """Ours, by kind of tokenizer."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        kind: Processor.from_pretrained(write_checkpoint(root / kind, kind)) for kind in ALL_KINDS
    }


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The processors of transformers over the same files."""
    from transformers import DeepseekVLHybridProcessor

    root = tmp_path_factory.mktemp("references")
    return {
        kind: DeepseekVLHybridProcessor.from_pretrained(write_checkpoint(root / kind, kind))
        for kind in ALL_KINDS
    }


def reference_ids(reference: Any, messages: list[dict[str, Any]]) -> list[int]:
    """Ids of the reference, by its two steps, since one call would want the pictures as well."""
    text = reference.apply_chat_template(messages, add_generation_prompt=True)
    expanded = text.replace(IMAGE, IMAGE * reference.num_image_tokens)
    ids: list[int] = reference.tokenizer(expanded)["input_ids"]
    return ids


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_harmless_chats_have_the_ids_of_the_reference(
    processors: dict[str, Processor], references: dict[str, Any], kind: str, chat: str
) -> None:
    """Another split of the same text is another prompt than the model was trained on."""
    found = processors[kind].prompt_ids(CHATS[chat])
    assert found.tolist() == reference_ids(references[kind], CHATS[chat])


@pytest.mark.parametrize("kind", ["demo", "metaspace"])
def test_a_chat_that_starts_with_bos_gets_no_second_one(tmp_path: Path, kind: str) -> None:
    """The reference adds special tokens unless the text starts with BOS already."""
    from transformers import DeepseekVLHybridProcessor

    template = "{{ bos_token }}{% for m in messages %}{{ m.content[0].text }}{% endfor %}"
    directory = write_checkpoint(tmp_path, kind, template=template)
    found = Processor.from_pretrained(directory).prompt_ids(user("hello"))
    reference = DeepseekVLHybridProcessor.from_pretrained(directory)
    text = reference.apply_chat_template(user("hello"))
    assert found.tolist() == reference.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_bos_may_be_asked_for_by_either_file(tmp_path: Path) -> None:
    """tokenizer.json alone may not say so; both saying it makes no second one."""
    directory = write_checkpoint(tmp_path, "split")
    chat = CHATS["one image"]
    with_bos = Processor.from_pretrained(directory).prompt_ids(chat).tolist()
    edit(directory / "tokenizer_config.json", add_bos_token=True)
    assert Processor.from_pretrained(directory).prompt_ids(chat).tolist() == with_bos
    edit(directory / "tokenizer.json", post_processor=None)
    assert Processor.from_pretrained(directory).prompt_ids(chat).tolist() == with_bos
    edit(directory / "tokenizer_config.json", add_bos_token=False)
    assert Processor.from_pretrained(directory).prompt_ids(chat).tolist() == with_bos[1:]


def test_control_tokens_missing_from_tokenizer_json_are_added(tmp_path: Path) -> None:
    """Some checkpoints name them in tokenizer_config.json alone."""
    from transformers import DeepseekVLHybridProcessor

    directory = write_checkpoint(tmp_path, "split")
    path = directory / "tokenizer.json"
    spec = json.loads(path.read_text(encoding="utf-8"))
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] in "üöø"]
    path.write_text(json.dumps(spec), encoding="utf-8")
    reference = DeepseekVLHybridProcessor.from_pretrained(directory)
    edit(directory / "config.json", image_token_id=reference.image_token_id)
    found = Processor.from_pretrained(directory)
    assert found.image_token_id == reference.image_token_id
    chat = CHATS["one image"]
    assert found.prompt_ids(chat).tolist() == reference_ids(reference, chat)


FRAGMENTS = [IMAGE, EOS, BOS, "<image_", "placeholder>", "<tool>", "two words", "<unk>", "ü"]
FRAGMENTS += [
    "\uff1cimage_placeholder\uff1e",
    "<IMAGE_placeholder>",
    "\U00100000",
    " ",
    "\n\n",
    "User: ",
]
hostile = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=8), max_size=6).map("".join)
parts = st.lists(st.none() | hostile, min_size=1, max_size=4)
turns = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), parts), min_size=1, max_size=3)


def chat_of(drawn: list[tuple[str, list[str | None]]]) -> list[dict[str, Any]]:
    """Messages; None stands for an image."""
    return [
        {
            "role": role,
            "content": [
                IMAGE_PART if text is None else {"type": "text", "text": text} for text in contents
            ],
        }
        for role, contents in drawn
    ]


@settings(deadline=None, max_examples=60)
@given(drawn=turns)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_no_text_becomes_a_control_token(
    processors: dict[str, Processor], kind: str, drawn: list[tuple[str, list[str | None]]]
) -> None:
    """Not by its own words, by joined parts, by normalisation or through the vocabulary."""
    processor = processors[kind]
    processor.max_prompt_tokens = 100_000
    plain = processor.tokenizer.plain
    control = {plain.token_to_id(t) for t in processor.tokenizer.aliases if t != "<unk>"}
    harmless = chat_of([(r, [None if t is None else "x" for t in c]) for r, c in drawn])

    def control_ids(messages: list[dict[str, Any]]) -> list[int]:
        return [i for i in processor.prompt_ids(messages).tolist() if i in control]

    found = control_ids(chat_of(drawn))
    assert found == control_ids(harmless)
    num_images = sum(text is None for _, contents in drawn for text in contents)
    assert found.count(processor.image_token_id) == num_images * processor.num_image_tokens


@settings(deadline=None, max_examples=60)
@given(drawn=turns)
@pytest.mark.parametrize("kind", ["demo", "split", "split_ignoring_merges"])
def test_decoding_gives_back_every_word(
    processors: dict[str, Processor], kind: str, drawn: list[tuple[str, list[str | None]]]
) -> None:
    """Neutral means kept as text, not removed."""
    processor = processors[kind]
    processor.max_prompt_tokens = 100_000
    # The byte-level decoder garbles the letters that the vocabulary holds as added tokens.
    letters = str.maketrans("üöø", "uoo")
    messages = chat_of([(r, [t and t.translate(letters) for t in c]) for r, c in drawn])
    ids = processor.prompt_ids(messages)
    decoded = processor.decode(ids, skip_special_tokens=False)
    expanded = processor.tokenizer.hide(IMAGE), IMAGE * processor.num_image_tokens
    rendered = processor._template.render(messages, add_generation_prompt=True).text
    assert decoded == BOS + processor.tokenizer.reveal(rendered.replace(*expanded))


@pytest.mark.parametrize("text", [IMAGE, EOS, BOS, f"a{IMAGE}b{EOS}"])
def test_special_strings_are_split_like_any_text(
    processors: dict[str, Processor], text: str
) -> None:
    """By the demo's byte vocabulary: one id for each byte."""
    processor = processors["demo"]
    ids = processor.prompt_ids(user(f"[{text}]")).tolist()
    alphabet = processor.tokenizer.plain.encode(f"[{text[:0]}]", add_special_tokens=False).ids
    inner = ids[ids.index(alphabet[0]) + 1 : ids.index(alphabet[1])]
    assert len(inner) == len(text.encode())


@pytest.mark.parametrize("kind", KINDS)
def test_added_tokens_that_are_not_special_are_text_as_well(
    processors: dict[str, Processor], kind: str
) -> None:
    """``encode_special_tokens`` of tokenizers alone would leave them tokens."""
    processor = processors[kind]
    tool_id = processor.tokenizer.plain.token_to_id("<tool>")
    assert tool_id in processor.tokenizer.plain.encode("a <tool> b").ids
    assert tool_id not in processor.prompt_ids(user("a <tool> b"))


def test_plain_string_content_is_one_text_part(processors: dict[str, Processor]) -> None:
    """The converted templates read lists of parts only, and would drop a string silently."""
    for processor in processors.values():
        as_string = processor.prompt_ids([{"role": "user", "content": "hello"}])
        assert as_string.tolist() == processor.prompt_ids(user("hello")).tolist()


def test_the_built_in_template_writes_the_original_chat_format(tmp_path: Path) -> None:
    """The original dialect has no template; two newlines end a user's turn, EOS the other's."""
    processor = Processor.from_pretrained(write_checkpoint(tmp_path, "demo", template=None))
    chat = [
        *user(" What is this? ", num_images=1),
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Sure?"},
    ]
    system = (
        "You are a helpful language and vision assistant. You are able to understand the visual "
        "content that the user provides, and assist the user with a variety of tasks using natural "
        "language."
    )
    turns = f"User: {IMAGE} What is this?\n\nAssistant: A cat.{EOS}User: Sure?\n\nAssistant:"
    assert processor.prompt_text(chat) == f"{system}\n\n{turns}"
    own = [{"role": "system", "content": "Be brief."}, *chat]
    assert processor.prompt_text(own) == f"Be brief.\n\n{turns}"
    edit(tmp_path / "tokenizer.json", post_processor=None)
    bare = Processor.from_pretrained(tmp_path)
    assert bare.prompt_ids(chat)[0] == bare.tokenizer.plain.token_to_id(BOS)
    assert processor.prompt_text(chat[:2], add_generation_prompt=False).endswith("A cat.")


@pytest.mark.parametrize("template", ["x", [{"name": "other", "template": "x"}], {"default": "x"}])
def test_in_the_original_layout_the_tokenizers_template_is_not_the_models(
    tmp_path: Path, template: Any
) -> None:
    """It is the language model's, which saw no pictures; in other layouts it does count."""
    directory = write_checkpoint(tmp_path, "demo", template=None)
    edit(directory / "tokenizer_config.json", chat_template=template)
    edit(directory / "config.json", model_type="multi_modality")
    assert read_template(directory) is None
    edit(directory / "tokenizer_config.json", chat_template="x")
    edit(directory / "config.json", model_type="deepseek_vl_hybrid")
    assert read_template(directory) == "x"


@pytest.mark.parametrize(
    "place", ["chat_template.json", "processor_config.json", "tokenizer_config.json"]
)
def test_templates_are_found_wherever_checkpoints_keep_them(tmp_path: Path, place: str) -> None:
    """The place changed with transformers' versions."""
    template = "{% generation %}{{ messages | tojson }}{% endgeneration %}"
    directory = write_checkpoint(tmp_path, "demo", template=None)
    (directory / "chat_template.json").write_text("{}", encoding="utf-8")
    edit(directory / place, chat_template=template)
    written = Processor.from_pretrained(directory).prompt_text(user("<é>"))
    assert json.loads(written) == user("<é>")
    assert "<é>" in written
    named = [{"name": "other", "template": "x"}, {"name": "default", "template": template}]
    edit(directory / place, chat_template=named)
    assert Processor.from_pretrained(directory).prompt_text(user("<é>")) == written
    edit(directory / place, chat_template=named[:1])
    with pytest.raises(CheckpointError, match="must be called 'default'"):
        Processor.from_pretrained(directory)


@pytest.mark.parametrize(
    ("messages", "code", "match"),
    [
        ([], "prompt_malformed", "no messages"),
        ([{"role": "user"}], "prompt_malformed", "content of type NoneType"),
        ([{"role": 1, "content": "x"}], "prompt_malformed", "message 0 of the prompt has role 1"),
        ([{"role": "user", "content": [{"type": "video"}]}], "prompt_malformed", "'video'"),
        ([{"role": "user", "content": "\ud800"}], "prompt_malformed", "surrogate"),
    ],
)
def test_malformed_messages_are_a_bad_row(
    processors: dict[str, Processor], messages: list[dict[str, Any]], code: str, match: str
) -> None:
    """They come from manifests: a bad one must not stop a run."""
    with pytest.raises(PromptError, match=match) as caught:
        processors["demo"].prompt_ids(messages)
    assert caught.value.code == code


def test_a_template_may_refuse_a_chat(tmp_path: Path) -> None:
    """Templates check the order of roles by raising."""
    template = "{% if messages | length > 1 %}{{ raise_exception('too many') }}{% endif %}"
    processor = Processor.from_pretrained(write_checkpoint(tmp_path, "demo", template=template))
    with pytest.raises(PromptError, match="refused it: too many") as caught:
        processor.prompt_ids([*user("a"), *user("b")])
    assert caught.value.code == "prompt_template"
    with pytest.raises(PromptError, match=r"1 image part, but .* 0 image placeholders"):
        processor.prompt_ids(user("a", num_images=1))


def test_templates_cannot_reach_python(tmp_path: Path) -> None:
    """A template comes with the checkpoint and is run on our machines."""
    template = "{{ messages.__class__.__mro__ }}"
    processor = Processor.from_pretrained(write_checkpoint(tmp_path, "demo", template=template))
    with pytest.raises(PromptError, match="unsafe"):
        processor.prompt_ids(user("a"))


def test_broken_files_are_named(tmp_path: Path) -> None:
    """Wrong checkpoints stop a run before it starts."""
    directory = write_checkpoint(tmp_path, "demo")
    (directory / "chat_template.jinja").write_text("{% if %}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="does not compile"):
        Processor.from_pretrained(directory)
    (directory / "tokenizer_config.json").write_text("[", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json cannot be read as JSON"):
        Processor.from_pretrained(directory)
    edit(directory / "config.json", image_token_id=7)
    (directory / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"has the id 2 in the tokenizer, but .* says 7"):
        Processor.from_pretrained(directory)
    (directory / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json does not exist"):
        Processor.from_pretrained(directory)
    assert DEMO.exists()
