"""Tokenizer, chat template and processor of small checkpoints, in the hub's format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
)

BOS, EOS, IMAGE = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<image_placeholder>"

# Behaves as the template of the converted checkpoints does: system text, "User: ", image
# placeholders, text stripped at both ends of a message, two newlines after a user's turn, the end
# of sentence after the assistant's.
CHAT_TEMPLATE = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language.\n\n"
    "{% for message in messages -%}"
    "{%- set role = message['role'] | lower -%}"
    "{{ {'user': 'User: ', 'assistant': 'Assistant: '}.get(role, role | capitalize + ': ') }}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}<image_placeholder>"
    "{%- elif part['type'] == 'text' -%}"
    "{%- set text = part['text'] -%}"
    "{%- if loop.first -%}{%- set text = text.lstrip() -%}{%- endif -%}"
    "{%- if loop.last -%}{%- set text = text.rstrip() -%}{%- endif -%}"
    "{%- if not loop.first and loop.previtem['type'] == 'text' -%}{{ ' ' }}{%- endif -%}"
    "{{ text }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if not loop.last or add_generation_prompt -%}"
    "{{ '\n\n' if role == 'user' else '" + EOS + "' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}Assistant:{%- endif -%}"
)


def byte_tokenizer(phrases: Sequence[str] = ()) -> Tokenizer:
    """A tokenizer without merges: three special tokens, 256 bytes, and fixed phrases.

    Args:
        phrases: Texts that are one token wherever they occur; everything else is bytes.
    """
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = ["".join(piece for piece, _ in spell.pre_tokenize_str(text)) for text in phrases]
    vocab = {token: index for index, token in enumerate([BOS, EOS, IMAGE, *bytes_, *spelled])}
    # A piece that is in the vocabulary is that token; the others fall apart into bytes.
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=bool(phrases)))
    backend.pre_tokenizer = spell
    if phrases:
        pattern = "|".join(map(re.escape, phrases))
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), spell]
        )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in (BOS, EOS, IMAGE)])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, vocab[BOS])]
    )
    return backend


def tokenizer() -> Any:
    """A byte-level tokenizer without merges: 256 bytes and the three special tokens."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        extra_special_tokens={"image_token": IMAGE},
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def processor() -> Any:
    """A processor with the 7B's own normalisation and resampling: 512 px, 192 px, 144 tokens."""
    from transformers import DeepseekVLHybridProcessor
    from transformers.models.deepseek_vl_hybrid import image_processing_pil_deepseek_vl_hybrid

    image_processor = image_processing_pil_deepseek_vl_hybrid.DeepseekVLHybridImageProcessorPil(
        size={"height": 192, "width": 192},
        high_res_size={"height": 512, "width": 512},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        resample=2,  # bilinear, as in the 7B
    )
    return DeepseekVLHybridProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer(),
        chat_template=CHAT_TEMPLATE,
        num_image_tokens=144,
    )
