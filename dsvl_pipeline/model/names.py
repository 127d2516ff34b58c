"""Under which names each checkpoint dialect stores the parts of our model. Torch-free.

A table maps a module (or a bare parameter) of ours to its stored name. ``*`` stands for a layer's
index, and ``(q|k|v)`` says that the file holds apart what we fuse into one matrix, in this order.

Source: the key mappings of the ``deepseek_vl`` conversion scripts and classes, transformers 4.54
and 5.23; released checkpoints of deepseek-ai/DeepSeek-VL.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from dsvl_pipeline.model import original

Names = Mapping[str, str]

# Read by nobody: SigLIP's pooling head, norms that the hybrid tower never calls, RoPE's constants.
_IGNORED = re.compile(
    r"\.attn_pool\.|^vision_model\.(high|low)_layer_norm\.|^model\.vision_model\.(vision_model\.)?"
    r"head\.|\.rotary_emb\.inv_freq$|\.position_ids$"
)
_HIGH_RES = re.compile(r"^model\.high_res_vision_|vision_tower_high\.")


def dialect_names(stored: Collection[str], *, is_hybrid: bool) -> Names:
    """Choose the table for a checkpoint by the names it holds."""
    if any(name.startswith("language_model.") for name in stored):
        return _original_names(is_hybrid=is_hybrid)
    is_early = any(name.startswith("model.vision_model.vision_model.") for name in stored)
    siglip = "model.vision_model.vision_model" if is_early else "model.vision_model"
    return _hub_names(siglip, is_hybrid=is_hybrid)


def community_names(*, is_hybrid: bool) -> Names:
    """Return the table of transformers 5.23, in which models are saved."""
    return _hub_names("model.vision_model", is_hybrid=is_hybrid)


def generic_name(parameter: str) -> str:
    """Put ``*`` in the place of a layer's index."""
    return re.sub(r"\.layers\.\d+\.", ".layers.*.", parameter)


def stored_names(parameter: str, names: Names) -> list[str]:
    """Return the stored names of one of our parameters: several where we fuse them."""
    index = re.search(r"\.layers\.(\d+)\.", parameter)
    generic = generic_name(parameter)
    if generic in names:  # a bare parameter rather than a module's weight or bias
        stored = names[generic]
    else:
        module, _, leaf = generic.rpartition(".")
        stored = f"{names[module]}.{leaf}"
    if index:
        stored = stored.replace("*", index[1])
    before, bracket, rest = stored.partition("(")
    if not bracket:
        return [stored]
    alternatives, _, after = rest.partition(")")
    return [f"{before}{alternative}{after}" for alternative in alternatives.split("|")]


def is_ignored(name: str) -> bool:
    """Return whether a stored tensor is known and not needed."""
    return _IGNORED.search(name) is not None


def is_high_res(name: str) -> bool:
    """Return whether a stored tensor belongs to the high-resolution tower."""
    return _HIGH_RES.search(name) is not None


def _hub_names(siglip: str, *, is_hybrid: bool) -> Names:
    """Names of transformers; ``siglip`` is what changed between 4.54 and 5.23."""
    siglip_layer = f"{siglip}.encoder.layers.*"
    sam = "model.high_res_vision_model.vision_encoder"
    return {
        **_llama_names("model.language_model"),
        "lm_head": "lm_head",
        "aligner.up": "model.aligner.linear1",
        "aligner.low_res": "model.aligner.vision_proj",
        "aligner.high_res": "model.aligner.high_res_vision_proj",
        "aligner.out": "model.aligner.proj" if is_hybrid else "model.aligner.linear2",
        "low_res.patch_embedding": f"{siglip}.embeddings.patch_embedding",
        "low_res.position_embedding": f"{siglip}.embeddings.position_embedding.weight",
        "low_res.norm": f"{siglip}.post_layernorm",
        "low_res.layers.*.attention_norm": f"{siglip_layer}.layer_norm1",
        "low_res.layers.*.attention.qkv": f"{siglip_layer}.self_attn.(q|k|v)_proj",
        "low_res.layers.*.attention.out": f"{siglip_layer}.self_attn.out_proj",
        "low_res.layers.*.mlp_norm": f"{siglip_layer}.layer_norm2",
        "low_res.layers.*.mlp.up": f"{siglip_layer}.mlp.fc1",
        "low_res.layers.*.mlp.down": f"{siglip_layer}.mlp.fc2",
        **_sam_layer_names(f"{sam}.layers.*", norm="layer_norm"),
        "high_res.patch_embedding": f"{sam}.patch_embed.projection",
        "high_res.position_embedding": f"{sam}.pos_embed",
        **_neck_names("high_res.neck", f"{sam}.neck", _HUB_NECK),
        **_neck_names("high_res.global_neck", "model.high_res_vision_neck", _HUB_NECK),
        "high_res.projection.conv1": "model.high_res_vision_proj.conv1",
        "high_res.projection.conv2": "model.high_res_vision_proj.conv2",
        "high_res.alpha": "model.high_res_vision_alpha",
    }


def _original_names(*, is_hybrid: bool) -> Names:
    """Names of deepseek-ai's own checkpoints."""
    siglip = original.SIGLIP_OF_HYBRID if is_hybrid else original.SIGLIP
    siglip_layer = f"{siglip}.blocks.*"
    sam = original.SAM
    return {
        **_llama_names("language_model.model"),
        "lm_head": "language_model.lm_head",
        "aligner.up": "aligner.layers.0",
        "aligner.low_res": "aligner.low_up_proj",
        "aligner.high_res": "aligner.high_up_proj",
        "aligner.out": "aligner.layers.1" if is_hybrid else "aligner.layers.2",
        "low_res.patch_embedding": f"{siglip}.patch_embed.proj",
        "low_res.position_embedding": f"{siglip}.pos_embed",
        "low_res.norm": f"{siglip}.norm",
        "low_res.layers.*.attention_norm": f"{siglip_layer}.norm1",
        "low_res.layers.*.attention.qkv": f"{siglip_layer}.attn.qkv",
        "low_res.layers.*.attention.out": f"{siglip_layer}.attn.proj",
        "low_res.layers.*.mlp_norm": f"{siglip_layer}.norm2",
        "low_res.layers.*.mlp.up": f"{siglip_layer}.mlp.fc1",
        "low_res.layers.*.mlp.down": f"{siglip_layer}.mlp.fc2",
        **_sam_layer_names(f"{sam}.blocks.*", norm="norm"),
        "high_res.patch_embedding": f"{sam}.patch_embed.proj",
        "high_res.position_embedding": f"{sam}.pos_embed",
        **_neck_names("high_res.neck", f"{sam}.neck", _ORIGINAL_NECK),
        **_neck_names("high_res.global_neck", f"{sam}.neck_hd", _ORIGINAL_NECK),
        "high_res.projection.conv1": f"{sam}.downsamples.0",
        "high_res.projection.conv2": f"{sam}.downsamples.1",
        "high_res.alpha": f"{sam}.hd_alpha_downsamples",
    }


def _llama_names(llama: str) -> Names:
    layer = f"{llama}.layers.*"
    return {
        "text.embedding": f"{llama}.embed_tokens",
        "text.norm": f"{llama}.norm",
        "text.layers.*.attention_norm": f"{layer}.input_layernorm",
        "text.layers.*.attention.qkv": f"{layer}.self_attn.(q|k|v)_proj",
        "text.layers.*.attention.out": f"{layer}.self_attn.o_proj",
        "text.layers.*.mlp_norm": f"{layer}.post_attention_layernorm",
        "text.layers.*.mlp.gate_up": f"{layer}.mlp.(gate|up)_proj",
        "text.layers.*.mlp.down": f"{layer}.mlp.down_proj",
    }


def _sam_layer_names(layer: str, *, norm: str) -> Names:
    return {
        "high_res.layers.*.attention_norm": f"{layer}.{norm}1",
        "high_res.layers.*.attention.qkv": f"{layer}.attn.qkv",
        "high_res.layers.*.attention.out": f"{layer}.attn.proj",
        "high_res.layers.*.attention.rel_pos_h": f"{layer}.attn.rel_pos_h",
        "high_res.layers.*.attention.rel_pos_w": f"{layer}.attn.rel_pos_w",
        "high_res.layers.*.mlp_norm": f"{layer}.{norm}2",
        "high_res.layers.*.mlp.up": f"{layer}.mlp.lin1",
        "high_res.layers.*.mlp.down": f"{layer}.mlp.lin2",
    }


_OUR_NECK = ("conv1", "norm1", "conv2", "norm2")
_HUB_NECK = ("conv1", "layer_norm1", "conv2", "layer_norm2")
_ORIGINAL_NECK = ("0", "1", "2", "3")


def _neck_names(ours: str, theirs: str, leaves: tuple[str, ...]) -> Names:
    return {f"{ours}.{a}": f"{theirs}.{b}" for a, b in zip(_OUR_NECK, leaves, strict=True)}
