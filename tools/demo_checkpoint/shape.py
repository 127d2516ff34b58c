"""The demo checkpoint's small files: config, tokenizer, chat template, processor. No transformers.

The real architecture, small: SAM side 512 px, SigLIP side 256 px, patch 16, so a grid of 16 x 16 =
256 image tokens; 7.8 million parameters.

Every byte is a token, hence an answer has a token for each character and any prompt can be written.
Only what every prompt of training repeats (`PHRASES`) is one token each: a chat then takes 4 tokens
and the image instead of 230 and the image.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tools.demo_checkpoint.files import BOS, CHAT_TEMPLATE, EOS, IMAGE, byte_tokenizer

TRANSCRIBE, DESCRIBE = "Transcribe the text in the image.", "Describe the image."
BEFORE_IMAGE = CHAT_TEMPLATE.partition("\n\n")[0] + "\n\nUser: "
PHRASES = (BEFORE_IMAGE, TRANSCRIBE, DESCRIBE, "\n\nAssistant:")
BOS_ID, EOS_ID, IMAGE_ID = 0, 1, 2
NUM_IMAGE_TOKENS = 256
HIGH_RES_PX, LOW_RES_PX = 512, 256
VOCAB_SIZE = 264  # one more than there are tokens: a multiple of 8

CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekVLHybridForConditionalGeneration"],
    "dtype": "bfloat16",
    "model_type": "deepseek_vl_hybrid",
    "image_token_id": IMAGE_ID,
    "tie_word_embeddings": True,
    "text_config": {
        "model_type": "llama",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": EOS_ID,
    },
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": LOW_RES_PX,
        "patch_size": 16,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-06,
        "vision_use_head": False,
    },
    "high_res_vision_config": {
        "model_type": "sam_vision_model",
        "hidden_size": 192,
        "intermediate_size": 640,
        "mlp_dim": 640,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "image_size": HIGH_RES_PX,
        "patch_size": 16,
        "output_channels": 96,
        "global_attn_indexes": [2, 5],
        "window_size": 8,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-06,
        "use_abs_pos": True,
        "use_rel_pos": True,
        "qkv_bias": True,
        "initializer_range": 0.02,
    },
}
_GENERATION = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": EOS_ID}
_PROCESSOR = {
    "processor_class": "DeepseekVLHybridProcessor",
    "num_image_tokens": NUM_IMAGE_TOKENS,
    "image_processor": {  # normalisation, filters and colours of the 7B
        "image_processor_type": "DeepseekVLHybridImageProcessor",
        "do_resize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "min_size": 14,
        "size": {"height": LOW_RES_PX, "width": LOW_RES_PX},
        "resample": 2,
        "background_color": [127, 127, 127],
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "high_res_size": {"height": HIGH_RES_PX, "width": HIGH_RES_PX},
        "high_res_resample": 3,
        "high_res_background_color": [122, 116, 104],
        "high_res_image_mean": [0.48145466, 0.4578275, 0.40821073],
        "high_res_image_std": [0.26862954, 0.26130258, 0.27577711],
    },
}
_TOKENIZER = {
    "tokenizer_class": "TokenizersBackend",
    "backend": "tokenizers",
    "processor_class": "DeepseekVLHybridProcessor",
    "bos_token": BOS,
    "eos_token": EOS,
    "pad_token": EOS,
    "image_token": IMAGE,
    "extra_special_tokens": [],
    "clean_up_tokenization_spaces": False,
    "model_max_length": 2048,
}


def tokenizer() -> Tokenizer:
    """Give the demo's tokenizer: bytes and `PHRASES`."""
    return byte_tokenizer(PHRASES)


def write(directory: Path) -> None:
    """Write everything but the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in {
        "config.json": CONFIG,
        "generation_config.json": _GENERATION,
        "processor_config.json": _PROCESSOR,
        "tokenizer_config.json": _TOKENIZER,
    }.items():
        (directory / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    tokenizer().save(str(directory / "tokenizer.json"))
