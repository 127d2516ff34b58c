"""Gradients of the public models, against those of transformers."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import dsvl_pipeline
from tests.api.examples import FAMILIES
from tests.api.pairs import Pair, make_pair


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Both families; id 20 is padding, and not learnt."""
    return make_pair(request.param, pad_token_id=20)


def gradients(model: nn.Module, pair: Pair) -> dict[str, torch.Tensor]:
    """Of the loss over a batch with padding, by the parameters' names."""
    labels = pair.inputs["input_ids"].masked_fill(~pair.is_token, -100)
    model.zero_grad()
    model(**pair.inputs, labels=labels).loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradients_equal_the_reference(pair: Pair) -> None:
    """Of every parameter, under the same names."""
    found, wanted = gradients(pair.ours, pair), gradients(pair.theirs, pair)
    assert found.keys() == wanted.keys()
    assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    ids = pair.inputs["input_ids"]
    for options in ({"num_items_in_batch": 7}, {"shift_labels": ids.roll(1)}):
        losses = [m(**pair.inputs, labels=ids, **options).loss for m in (pair.ours, pair.theirs)]
        assert_close(*losses, rtol=0, atol=1e-4)


def test_layers_computed_again_give_the_same_gradients(pair: Pair) -> None:
    """Gradient checkpointing, in both of torch's ways."""
    model = copy.deepcopy(pair.ours).train()
    wanted = gradients(model, pair)
    for options in (None, {"use_reentrant": True}):
        model.gradient_checkpointing_enable(options)
        assert model.is_gradient_checkpointing
        assert_close(gradients(model, pair), wanted, rtol=0, atol=1e-6)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    with pytest.raises(TypeError, match="takes no speed"):
        model.gradient_checkpointing_enable({"speed": 1})


def test_frozen_parts_get_no_gradients(pair: Pair) -> None:
    """Chosen by the reference's names."""
    model = copy.deepcopy(pair.ours)
    for part in (model.model.vision_model, model.model.aligner):
        part.requires_grad_(False)
    found = gradients(model, pair)
    assert not any(name.startswith(("model.vision_model", "model.aligner")) for name in found)
    assert "model.language_model.layers.0.self_attn.k_proj.weight" in found
    assert model.num_parameters(only_trainable=True) < model.num_parameters()


def test_what_is_trained_is_what_answers(pair: Pair) -> None:
    """Parts and fused weights share memory, also after the model was cast or copied."""
    for model in (copy.deepcopy(pair.ours), copy.deepcopy(pair.ours).double().float()):
        before = model(**pair.inputs).logits
        with torch.no_grad():
            model.model.language_model.layers[0].self_attn.v_proj.weight.mul_(-3)
            after = model(**pair.inputs).logits
        assert not torch.allclose(before, after, atol=1e-2)
        assert_close(model(**pair.inputs).logits, after, rtol=0, atol=1e-5)  # part by part


def test_parts_may_be_replaced_by_adapters(pair: Pair) -> None:
    """As low-rank adapters are hung in: with gradients and without."""

    class Adapter(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base = base.requires_grad_(False)
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * self.base(x)

    model = copy.deepcopy(pair.ours).requires_grad_(False)
    wanted = model(**pair.inputs).logits
    layer = model.model.language_model.layers[1]
    layer.self_attn.q_proj, layer.mlp.down_proj = map(
        Adapter, (layer.self_attn.q_proj, layer.mlp.down_proj)
    )
    assert_close(model(**pair.inputs).logits, wanted, rtol=0, atol=1e-5)
    assert len(gradients(model, pair)) == 2
    layer.mlp.down_proj.scale.data.mul_(2)
    with torch.no_grad():
        assert not torch.allclose(model(**pair.inputs).logits, wanted, atol=1e-3)


def test_a_step_on_the_demo_lowers_its_loss_as_the_references_does() -> None:
    """The same optimiser on the same text: losses go the same way."""
    from transformers import DeepseekVLHybridForConditionalGeneration as Theirs

    from dsvl_pipeline.hub import resolve

    ids = torch.randint(10, 250, (1, 40), generator=torch.Generator().manual_seed(3))
    losses = []
    for kind in (dsvl_pipeline.DeepseekVLHybridForConditionalGeneration, Theirs):
        model = kind.from_pretrained(resolve("demo"), dtype=torch.float32)
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert not model.training
        optimiser = torch.optim.AdamW(model.parameters())
        losses.append([])
        for _ in range(3):
            loss = model(ids, labels=ids).loss
            losses[-1].append(loss.item())
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    ours, theirs = losses
    assert ours == pytest.approx(theirs, abs=1e-3)
    assert ours[2] < ours[0]
