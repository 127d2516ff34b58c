"""Loading: dialects, shards, the head, and what a wrong checkpoint is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.model import checkpoint, reading
from dsvl_pipeline.model.checkpoint import build_empty, load_model
from dsvl_pipeline.model.config import LlamaConfig, ModelConfig, SamConfig, SiglipConfig
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.tensors import StoredTensor
from tests.checkpoints import write_checkpoint


def load(directory: Path) -> DeepseekVL:
    """Load as the other tests do: exactly."""
    return load_model(directory, dtype=torch.float32, device="cpu")


def edit_tensors(directory: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change what the single weights file holds."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def edit_config(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what ``config.json`` says."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.fixture(params=["mapped", "staged"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Read as for a CPU, or as for a GPU: in threads, through buffers (here of 4096 bytes)."""
    monkeypatch.setattr(reading, "is_mapped", lambda _: request.param == "mapped")
    monkeypatch.setattr(reading, "_STAGE_BYTES", 4096)
    return str(request.param)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("is_hybrid", [True, False], ids=["hybrid", "single"])
def test_every_dialect_gives_the_same_model(tmp_path: Path, is_hybrid: bool) -> None:
    """One network, three names for each tensor: fused and split, in one file and in shards."""
    models = []
    for dialect in ("original", "early", "current"):
        for num_shards in (1, 3):
            write_checkpoint(tmp_path, is_hybrid=is_hybrid, dialect=dialect, num_shards=num_shards)
            models.append(load(tmp_path))
    first = models[0].state_dict()
    for model in models[1:]:
        assert model.config == models[0].config
        assert model.state_dict().keys() == first.keys()
        assert all(torch.equal(tensor, first[name]) for name, tensor in model.state_dict().items())


def test_the_head_of_the_file_wins_over_a_tie_flag(tmp_path: Path) -> None:
    """The real 7B has a head of its own below a top-level ``tie_word_embeddings: true``."""
    reference = write_checkpoint(tmp_path, has_own_head=True)
    edit_config(tmp_path, lambda config: config.update(tie_word_embeddings=True))
    model = load(tmp_path)
    assert torch.equal(model.lm_head.weight, reference.lm_head.weight)
    assert not torch.equal(model.lm_head.weight, model.text.embedding.weight)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dialect", ["original", "current"])
def test_a_head_that_is_absent_is_tied(tmp_path: Path, dialect: Any) -> None:
    """Transformers drops a tied head from the file; a tie flag of false must not stop us."""
    write_checkpoint(tmp_path, dialect=dialect, has_own_head=False)
    edit_config(tmp_path, lambda config: config.update(tie_word_embeddings=False))
    model = load(tmp_path)
    assert model.lm_head.weight is model.text.embedding.weight
    assert model.text.embedding.weight.device.type == "cpu"


@pytest.mark.usefixtures("way")
def test_weights_are_rounded_to_the_dtype_and_frozen(tmp_path: Path) -> None:
    """Half the memory means half the memory: no parameter stays wide, none gathers gradients."""
    write_checkpoint(tmp_path)
    wide = load(tmp_path).state_dict()
    model = load_model(tmp_path, dtype=torch.bfloat16, device="cpu")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, wide[name].to(torch.bfloat16))
    # rotary frequencies are no weights: rounded, positions beyond 256 would blur
    assert model.text.frequencies.dtype == torch.float32


def test_missing_tensors_name_the_first_and_the_wrong_size(tmp_path: Path) -> None:
    """The commonest mistake: weights of the one model under the config of the other."""
    write_checkpoint(tmp_path, is_hybrid=False)
    edit_config(tmp_path, lambda config: config.update(model_type="deepseek_vl_hybrid"))
    with pytest.raises(CheckpointError) as error:
        load(tmp_path)
    assert (
        "tensors are missing, first 'model.high_res_vision_model.vision_encoder.pos_embed'"
        in str(error.value)
    )
    assert "is this the 1.3B checkpoint?" in str(error.value)
    assert "its config.json says deepseek_vl_hybrid" in str(error.value)


def test_a_hybrid_under_a_single_tower_config_is_recognised(tmp_path: Path) -> None:
    """The other way round."""
    write_checkpoint(tmp_path, is_hybrid=True)
    edit_config(tmp_path, lambda config: config.update(model_type="deepseek_vl"))
    with pytest.raises(CheckpointError, match=r"missing, first .*is this the 7B checkpoint\?"):
        load(tmp_path)


def test_missing_tensors_are_counted(tmp_path: Path) -> None:
    """How many tells a lost shard from a lost tensor."""
    write_checkpoint(tmp_path)
    lost = ["model.language_model.norm.weight", "model.aligner.proj.bias"]
    edit_tensors(tmp_path, lambda tensors: [tensors.pop(name) for name in lost])
    with pytest.raises(CheckpointError, match=r"2 of \d+ tensors are missing, first 'model.align"):
        load(tmp_path)


def test_an_original_hybrid_is_not_taken_for_the_single_tower(tmp_path: Path) -> None:
    """A wrong guess at the cause is worse than none."""
    write_checkpoint(tmp_path, dialect="original")
    edit_tensors(tmp_path, lambda tensors: tensors.pop("aligner.high_up_proj.weight"))
    with pytest.raises(CheckpointError) as error:
        load(tmp_path)
    assert "1 of" in str(error.value)
    assert "tensors are missing, first 'aligner.high_up_proj.weight'" in str(error.value)
    assert "1.3B" not in str(error.value)


def test_unknown_tensors_are_refused(tmp_path: Path) -> None:
    """A tensor nobody reads may be a layer that the config forgets."""
    write_checkpoint(tmp_path)
    edit_config(tmp_path, lambda config: config["text_config"].update(num_hidden_layers=2))
    with pytest.raises(CheckpointError) as error:
        load(tmp_path)
    assert "9 of" in str(error.value)
    assert "tensors are unknown, first 'model.language_model.layers.2." in str(error.value)
    assert "config.json says 2 layers of width 64" in str(error.value)


def test_misshaped_tensors_show_both_shapes(tmp_path: Path) -> None:
    """Found and needed, so that the reader sees which size is wrong."""
    write_checkpoint(tmp_path)
    edit_config(tmp_path, lambda config: config["text_config"].update(num_key_value_heads=1))
    with pytest.raises(CheckpointError) as error:
        load(tmp_path)
    assert "6 of" in str(error.value)
    assert ".k_proj.weight' with [32, 64] instead of [16, 64]" in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "model.vision_model.embeddings.patch_embedding.weight",
        "model.high_res_vision_neck.conv2.weight",
    ],
)
def test_convolutions_of_another_shape_are_refused(tmp_path: Path, name: str) -> None:
    """As many numbers in another order would be loaded without a word."""
    write_checkpoint(tmp_path)

    def turn(tensors: dict[str, Tensor]) -> None:
        tensors[name] = tensors[name].flatten(1).unflatten(1, (1, -1, tensors[name].shape[3]))

    edit_tensors(tmp_path, turn)
    with pytest.raises(CheckpointError, match="1 of .* do not have the shape .* first '" + name):
        load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.bool])
def test_quantised_weights_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    """Their numbers mean nothing without scales; cast, they would give noise."""
    write_checkpoint(tmp_path)
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    edit_tensors(tmp_path, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    with pytest.raises(CheckpointError, match=f"1 of .* no floats of 16 bits .* first '{name}'"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_any_float_are_loaded(tmp_path: Path, dtype: torch.dtype) -> None:
    """And cast to the one that was asked for."""
    write_checkpoint(tmp_path)
    edit_tensors(tmp_path, lambda ts: ts.update({name: t.to(dtype) for name, t in ts.items()}))
    assert {parameter.dtype for parameter in load(tmp_path).parameters()} == {torch.float32}


@pytest.mark.usefixtures("way")
def test_the_index_decides_between_shards(tmp_path: Path) -> None:
    """A shard of an older export may hold a tensor of the same name."""
    reference = write_checkpoint(tmp_path, num_shards=2)
    first, last = sorted(tmp_path.glob("*.safetensors"))
    for mine, other in ((first, last), (last, first)):
        stale = {name: torch.zeros_like(tensor) for name, tensor in load_file(other).items()}
        kept = load_file(mine)
        save_file({**stale, **kept}, mine)
    model = load(tmp_path)
    assert torch.equal(model.text.embedding.weight, reference.get_input_embeddings().weight)
    assert all(parameter.any() for parameter in model.parameters())


@pytest.mark.parametrize("shard", ["", ".", "..", "config.json", "sub/..", 5, None, ["x"]])
def test_shards_that_are_no_files_of_weights_are_refused(tmp_path: Path, shard: Any) -> None:
    """Whatever the index says."""
    write_checkpoint(tmp_path, num_shards=2)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = shard
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError):
        load(tmp_path)


def edit_header(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what the header of the weights says, and leave the data alone."""
    path = directory / "model.safetensors"
    body = path.read_bytes()
    end = 8 + int.from_bytes(body[:8], "little")
    header = json.loads(body[8:end])
    changed = json.dumps(change(header) or header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + body[end:])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [64], "data_offsets": [4, 256]},
        {"dtype": "F32", "shape": [64], "data_offsets": []},
        {"dtype": "F32", "shape": [64], "data_offsets": [0, "x"]},
        {"dtype": "F32", "shape": 64, "data_offsets": [0, 256]},
        {"shape": [64], "data_offsets": [0, 256]},
        "F32",
    ],
)
def test_a_damaged_header_is_a_checkpoint_error(tmp_path: Path, entry: Any) -> None:
    """Not whatever the damage makes Python or the library raise."""
    write_checkpoint(tmp_path)
    edit_header(tmp_path, lambda header: header.update({"model.language_model.norm.weight": entry}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_files_that_nest_without_end_are_checkpoint_errors(tmp_path: Path, name: str) -> None:
    """Python's JSON reader gives up with an error of another family."""
    write_checkpoint(tmp_path)
    nested = b"[" * 200_000
    header = b"" if name == "config.json" else len(nested).to_bytes(8, "little")
    (tmp_path / name).write_bytes(header + nested)
    with pytest.raises(CheckpointError):
        load(tmp_path)


def test_weights_that_are_a_directory_are_named(tmp_path: Path) -> None:
    """Links of a cache may point anywhere."""
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read: .*directory"):
        load(tmp_path)


def test_casting_a_model_leaves_rotary_frequencies_alone(tmp_path: Path) -> None:
    """Rounded to 16 bits they would turn late positions by visible angles."""
    write_checkpoint(tmp_path)
    model = load(tmp_path)
    frequencies = model.text.frequencies.clone()
    for cast in (lambda: model.to(torch.bfloat16), model.half, model.float):
        cast()
        assert torch.equal(model.text.frequencies, frequencies)
    assert model.to("meta").text.frequencies.device.type == "meta"


def test_a_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    """An interrupted download must not become a bus error in the middle of a run."""
    write_checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"model\.safetensors has \d+ bytes, but its header"):
        load(tmp_path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        load(tmp_path)


@pytest.mark.usefixtures("way")
@torch.inference_mode()
def test_a_model_may_be_loaded_in_inference_mode(tmp_path: Path) -> None:
    """Its weights cannot be written outside of it, and threads do not inherit it."""
    write_checkpoint(tmp_path)
    assert load(tmp_path).lm_head.weight.is_inference()


def test_a_shard_that_breaks_while_it_is_read_is_named(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may be cut off, or its disk fail, after its header was found to be whole."""
    write_checkpoint(tmp_path, num_shards=3)
    whole, shard = reading.open_files, "model-00002-of-00003.safetensors"

    @contextmanager
    def cut(*arguments: Any) -> Iterator[reading.Read]:
        with whole(*arguments) as read:
            if way == "staged":  # a mapped file must not be cut: that ends the process
                body = (tmp_path / shard).read_bytes()
                (tmp_path / shard).write_bytes(body[: len(body) // 2])
                yield read
            else:

                def fail(name: str, stored: StoredTensor, out: Tensor) -> None:
                    if stored.file.name == shard:
                        stored = replace(stored, file=tmp_path / shard)
                        name = "lost"
                    read(name, stored, out)

                yield fail

    monkeypatch.setattr(checkpoint, "open_files", cut)
    with pytest.raises(CheckpointError, match=rf"{shard} cannot be read: .*fetch it again"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("is_hybrid", "text", "billions", "vision_billions"),
    [
        (True, {"hidden_size": 4096, "intermediate_size": 11008, "num_layers": 30}, 6.91, 0.42),
        (False, {"hidden_size": 2048, "intermediate_size": 5632, "num_layers": 24}, 1.75, 0.31),
    ],
    ids=["7b", "1.3b"],
)
def test_released_shapes_have_their_number_of_parameters(
    is_hybrid: bool, text: dict[str, int], billions: float, vision_billions: float
) -> None:
    """The layers of the released sizes, counted without memory; a tied head is counted once."""
    num_heads = text["hidden_size"] // 128
    siglip = SiglipConfig(
        image_size_px=384,
        patch_size_px=16,
        hidden_size=1024,
        intermediate_size=4096,
        num_layers=24,
        num_heads=16,
        layer_norm_eps=1e-6,
        activation="gelu",
    )
    sam = SamConfig(
        image_size_px=1024,
        patch_size_px=16,
        hidden_size=768,
        intermediate_size=3072,
        num_layers=12,
        num_heads=12,
        layer_norm_eps=1e-6,
        window_size=14,
        global_layers=(2, 5, 8, 11),
        output_channels=256,
    )
    llama = LlamaConfig(
        vocab_size=102400,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=128,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        max_positions=16384,
        **text,
    )
    model = build_empty(
        ModelConfig(
            text=llama,
            low_res=siglip,
            high_res=sam if is_hybrid else None,
            image_token_id=100015,
        )
    )
    assert model.config.num_image_tokens == 576
    model.lm_head.weight = model.text.embedding.weight
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    num_text = sum(parameter.numel() for parameter in model.text.parameters())
    assert round(num_parameters / 1e9, 2) == billions
    assert round((num_parameters - num_text) / 1e9, 2) == vision_billions
