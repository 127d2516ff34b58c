"""``forward`` of the public models: caches, embeddings, masks, and what it returns."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from dsvl_pipeline.api.cache import DynamicCache
from dsvl_pipeline.api.outputs import CausalOutput
from tests.api.examples import FAMILIES
from tests.api.pairs import Pair, make_pair
from tests.checkpoints import IMAGE_TOKEN_ID, NUM_IMAGE_TOKENS

pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.fixture
def without_gradients() -> Any:
    """As answers are computed."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Both families, with fewer key and value heads than query heads."""
    return make_pair(request.param, num_key_value_heads=2)


def test_every_output_equals_the_reference(pair: Pair) -> None:
    """Scores, loss, hidden states and probabilities, padding included."""
    options = {"labels": pair.inputs["input_ids"], "output_hidden_states": True}
    found, wanted = pair.ours(**pair.inputs, **options), pair.theirs(**pair.inputs, **options)
    assert list(found.keys()) == list(wanted.keys())
    for name in ("loss", "logits", "hidden_states", "image_hidden_states"):
        assert_close(found[name], wanted[name], rtol=0, atol=1e-4)
    theirs = copy.deepcopy(pair.theirs)
    theirs.set_attn_implementation("eager")
    found, wanted = (m(**pair.inputs, output_attentions=True) for m in (pair.ours, theirs))
    assert_close(found.attentions, wanted.attentions, rtol=0, atol=1e-5)
    assert_close(found.logits[pair.is_token], wanted.logits[pair.is_token], rtol=0, atol=1e-4)


def test_outputs_are_read_by_attribute_key_and_index(pair: Pair) -> None:
    """And without ``return_dict`` they are tuples; None is left out."""
    found = pair.ours(**pair.text_inputs, use_cache=False)
    assert list(found) == list(found.keys()) == ["logits"]
    assert found.logits is found["logits"] is found[0] is found.to_tuple()[0]
    assert found.loss is None
    assert "loss" not in found
    (only,) = pair.ours(**pair.text_inputs, use_cache=False, return_dict=False)
    assert torch.equal(only, found.logits)
    again = CausalOutput(dict(found))  # as accelerate does
    assert again.logits is found.logits
    assert again.loss is None
    assert torch.equal(pickle.loads(pickle.dumps(found)).logits, found.logits)


@pytest.mark.parametrize("steps", [[24], [14, 10], [16, 1, 3, 1, 1, 2]], ids=str)
def test_chunks_with_a_cache_equal_the_whole(pair: Pair, steps: list[int]) -> None:
    """Prefill in pieces, and token by token, with padding on the left."""
    whole = pair.ours(**pair.inputs)
    pictures = {name: value for name, value in pair.inputs.items() if "pixel" in name}
    cache, begin, found = None, 0, []
    for number in steps:
        end = begin + number
        output = pair.ours(
            pair.inputs["input_ids"][:, begin:end],
            attention_mask=pair.inputs["attention_mask"][:, :end],
            past_key_values=cache,
            **(pictures if begin == 0 else {}),
        )
        cache, begin = output.past_key_values, end
        assert cache.get_seq_length() == end
        found.append(output.logits)
    together = torch.cat(found, 1)
    assert_close(together[pair.is_token], whole.logits[pair.is_token], rtol=0, atol=1e-5)


def test_a_cache_is_changed_as_searches_change_it(pair: Pair) -> None:
    """Reordered, repeated, selected, cut: what is scored next follows."""
    ids, mask = pair.text_inputs["input_ids"], pair.text_inputs["attention_mask"]
    next_ids = ids[:, :1]

    def scores(cache: DynamicCache, rows: list[int]) -> torch.Tensor:
        more = torch.cat([mask[rows, : cache.get_seq_length()], mask[rows, -1:]], 1)
        output = pair.ours(next_ids[rows], attention_mask=more, past_key_values=cache)
        return output.logits

    begun = pair.ours(**pair.text_inputs).past_key_values
    wanted = scores(copy.deepcopy(begun), [0, 1])
    cache = copy.deepcopy(begun)
    cache.reorder_cache(torch.tensor([1, 1]))
    assert_close(scores(cache, [1, 1]), wanted[[1, 1]], rtol=0, atol=1e-5)
    cache.crop(24)
    cache.batch_select_indices(torch.tensor([0]))
    assert_close(scores(cache, [1]), wanted[[1]], rtol=0, atol=1e-5)
    cache = copy.deepcopy(begun)
    cache.batch_repeat_interleave(2)
    assert_close(scores(cache, [0, 0, 1, 1]), wanted[[0, 0, 1, 1]], rtol=0, atol=1e-5)
    assert len(cache) == len(list(cache)) == pair.ours.config.text_config.num_hidden_layers
    assert cache[0][0].shape == (4, 2, 25, pair.ours.config.text_config.head_dim)
    assert_close(pair.ours(ids, past_key_values=DynamicCache(begun)).logits.shape, (2, 24, 259))


def test_embeddings_equal_ids(pair: Pair) -> None:
    """With pictures too: image tokens are found by their embedding."""
    embeddings = pair.ours.get_input_embeddings()(pair.inputs["input_ids"])
    inputs = {**pair.inputs, "inputs_embeds": embeddings}
    del inputs["input_ids"]
    wanted = pair.ours(**pair.inputs).logits
    assert_close(pair.ours(**inputs).logits, wanted, rtol=0, atol=1e-6)
    for both in ({**pair.inputs, **inputs}, {}):
        with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
            pair.ours(**both)


def test_padding_changes_nothing(pair: Pair) -> None:
    """On the left or right, and scores at padding are numbers."""
    ids = pair.inputs["input_ids"][:1, 14:]
    wanted = pair.ours(ids).logits
    zeros = torch.zeros(1, 5, dtype=torch.int64)
    ones = torch.ones_like(ids)
    for order in ([0, 1], [1, 0]):
        padded = torch.cat([[zeros, ids][i] for i in order], 1)
        mask = torch.cat([[zeros, ones][i] for i in order], 1)
        found = pair.ours(padded, attention_mask=mask).logits
        assert found.isfinite().all()
        assert_close(found[mask.bool()][None], wanted, rtol=0, atol=1e-5)


def test_masks_of_four_dimensions_are_taken_as_they_are(pair: Pair) -> None:
    """Booleans, or numbers that are added to scores."""
    ids = pair.text_inputs["input_ids"]
    seen = torch.ones(24, 24, dtype=torch.bool).tril() & pair.is_token[:, None, None]
    seen = seen | torch.eye(24, dtype=torch.bool)
    added = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    for mask in (seen, added):
        found = pair.ours(ids, attention_mask=mask).logits
        wanted = pair.theirs(ids, attention_mask=mask).logits
        assert_close(found, wanted, rtol=0, atol=1e-4)


def test_positions_that_begin_again_are_another_sequence(pair: Pair) -> None:
    """Packed rows, as the reference reads them."""
    ids = pair.text_inputs["input_ids"][:1]
    positions = torch.cat([torch.arange(10), torch.arange(14)])[None]
    found = pair.ours(ids, position_ids=positions, use_cache=False).logits
    wanted = pair.theirs(ids, position_ids=positions, use_cache=False).logits
    assert_close(found, wanted, rtol=0, atol=1e-4)
    assert_close(found[:, 10:], pair.ours(ids[:, 10:]).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("keep", [1, 5, torch.tensor([0, 7, 23]), torch.tensor([[3], [9]])])
def test_only_some_tokens_are_scored(pair: Pair, keep: Any) -> None:
    """The last so many, or those that are named."""
    found = pair.ours(**pair.inputs, logits_to_keep=keep).logits
    wanted = pair.theirs(**pair.inputs, logits_to_keep=keep).logits
    assert_close(found, wanted, rtol=0, atol=1e-4)


def test_image_features_equal_the_reference(pair: Pair) -> None:
    """With all that lies between."""
    pictures = {name: value for name, value in pair.inputs.items() if "pixel" in name}
    config = copy.deepcopy(pair.theirs.config)
    config._attn_implementation = "eager"
    eager = type(pair.theirs)(config).eval()
    eager.load_state_dict(pair.theirs.state_dict())
    for theirs, options in (
        (pair.theirs, {}),
        (eager, {"output_hidden_states": True, "output_attentions": True}),
    ):
        found = pair.ours.get_image_features(**pictures, **options)
        wanted = theirs.model.get_image_features(**pictures, **options)
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            assert_close(found[name], value, rtol=0, atol=1e-4)


def test_threads_do_not_get_one_anothers_states(pair: Pair) -> None:
    """Of one model that several of them ask at once."""
    names = ("pixel_values", "high_res_pixel_values")
    pictures = {name: pair.inputs[name] for name in names if name in pair.inputs}
    wanted = pair.ours.get_image_features(**pictures, output_hidden_states=True)

    def ask(number: int) -> Any:
        with torch.no_grad():
            return pair.ours.get_image_features(**pictures, output_hidden_states=number % 2 == 0)

    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(ask, range(12))):
            assert torch.equal(found.pooler_output, wanted.pooler_output)
            if number % 2 == 0:
                assert len(found.hidden_states) == len(wanted.hidden_states)
                assert_close(found.hidden_states, wanted.hidden_states)


def test_features_may_be_encoded_before(pair: Pair) -> None:
    """For many prompts about one picture."""
    pictures = {name: value for name, value in pair.inputs.items() if "pixel" in name}
    encoded = {"image": pair.ours.get_image_features(**pictures)}
    found = pair.ours(**pair.text_inputs, mm_encoder_outputs=encoded).logits
    assert_close(found, pair.ours(**pair.inputs).logits, rtol=0, atol=0)


def test_wrong_inputs_are_named(pair: Pair) -> None:
    """None is silently ignored."""
    ids = pair.inputs["input_ids"].clone()
    ids[0, 0] = IMAGE_TOKEN_ID
    number = 2 * NUM_IMAGE_TOKENS
    message = f"hold {number + 1} image tokens, but the images give {number} features"
    with pytest.raises(ValueError, match=message):
        pair.ours(**{**pair.inputs, "input_ids": ids})
    with pytest.raises(TypeError, match="pixel_value'"):
        pair.ours(ids, pixel_value=None)
