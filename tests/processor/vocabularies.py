"""Small checkpoints with tokenizers of the kinds that LLaMA-like models come with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tools.demo_checkpoint.files import BOS, CHAT_TEMPLATE, EOS, IMAGE

DEMO = Path("dsvl_pipeline/demo/checkpoint")
CORPUS = [
    "Describe the image in one sentence. What does the second page say?",
    "You are a helpful language and vision assistant. User: Assistant: image_placeholder",
    "Straße Größe für über naïve 你好世界 これは 1234567890 <image> end of sentence begin",
] * 20
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def split_bpe(*, ignore_merges: bool = False) -> Tokenizer:
    """Byte-level BPE behind regex splits, as DeepSeek's own tokenizer; letters as added tokens."""
    backend = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    backend.normalizer = normalizers.Sequence([])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\r\n]"), behavior="isolated"),
            pre_tokenizers.Split(Regex(r"\s?\p{L}+"), behavior="isolated"),
            pre_tokenizers.Split(Regex(r"\s?\p{P}+"), behavior="isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=BYTES, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken(letter, normalized=True) for letter in "üöø"])
    return _with_control_tokens(backend, extra=["<tool>", "two words"])


def metaspace_bpe() -> Tokenizer:
    """BPE with byte fallback over the whole text, as LLaMA 2 in its newer form."""
    backend = _sentencepiece_bpe()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return _with_control_tokens(backend, extra=["<tool>"])


def prepending_bpe() -> Tokenizer:
    """The same in its older form: the space is put in front by the normaliser."""
    backend = _sentencepiece_bpe()
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return _with_control_tokens(backend, extra=["<tool>"])


def normalising_bpe() -> Tokenizer:
    """Full-width text becomes ASCII before tokens are searched, unless they forbid it."""
    backend = split_bpe()
    spec = json.loads(backend.to_str())
    spec["normalizer"] = {"type": "NFKC"}
    for token in spec["added_tokens"]:
        token["normalized"] = token["content"] != BOS
    return Tokenizer.from_str(json.dumps(spec))


def unigram() -> Tokenizer:
    """A model that may find control tokens in plain text by itself."""
    pieces = [("<unk>", 0.0), (BOS, 0.0), (EOS, 0.0), (IMAGE, 0.0), ("<tool>", 0.0)]
    words = sorted({w for line in CORPUS for w in line.split()})
    characters = sorted({c for line in CORPUS for c in line} | set(BYTES) | set(IMAGE + EOS + BOS))
    pieces += [("▁" + word, -5.0) for word in words] + [(c, -9.0) for c in characters if c != " "]
    pieces += [("▁", -3.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    return _with_control_tokens(backend, extra=["<tool>"])


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "split": split_bpe,
    "split_ignoring_merges": lambda: split_bpe(ignore_merges=True),
    "metaspace": metaspace_bpe,
    "prepending": prepending_bpe,
    "normalising": normalising_bpe,
    "unigram": unigram,
}


def write_checkpoint(directory: Path, kind: str, *, template: str | None = CHAT_TEMPLATE) -> Path:
    """Write what a processor reads; everything but the tokenizer is the demo checkpoint's."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, directory)
    if kind == "demo":
        shutil.copy(DEMO / "tokenizer.json", directory)
    else:
        KINDS[kind]().save(str(directory / "tokenizer.json"))
        edit(
            directory / "config.json",
            image_token_id=Tokenizer.from_file(str(directory / "tokenizer.json")).token_to_id(
                IMAGE
            ),
        )
    if template is not None:
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    return directory


def edit(path: Path, **changes: object) -> None:
    """Set keys of a JSON file; None removes one."""
    found = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    found = {key: value for key, value in found.items() if value is not None}
    path.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")


def _sentencepiece_bpe() -> Tokenizer:
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    model = models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", BOS, EOS, IMAGE, *fallback], show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    spec = json.loads(backend.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if not t["content"].startswith("<0x")]
    spec["pre_tokenizer"] = None
    backend = Tokenizer.from_str(json.dumps(spec))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return backend


def _with_control_tokens(backend: Tokenizer, *, extra: list[str]) -> Tokenizer:
    backend.add_special_tokens([AddedToken(token, special=True) for token in (BOS, EOS, IMAGE)])
    backend.add_tokens([AddedToken(token, special=False) for token in extra])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    return backend
