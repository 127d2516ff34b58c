"""Keys: fixed examples, because a changed key runs every row of every table again."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsvl_pipeline import keys

CONTENT = keys.content_id_from(uri="s3://b/k", etag='"abc"', size=10)
PROMPT = keys.prompt_digest("Describe the image in one sentence.")
RECIPE = keys.recipe_digest({"a": 1.0, "b": [1, 2]})


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (
            keys.row_id_for(["s3://b/a.jpg", "s3://b/b.jpg"], "What?"),
            "07124d621b1ee2860140744a69d853d4",
        ),
        (keys.row_id_for(["s3://b/a.jpg"], None), "fd94a0700a4b710bd30d8e8d64ef4e00"),
        (keys.row_id_for(["s3://b/a.jpg"], "", 2), "7619bf42a36ef9c4729617d3ca0a4b8a-2"),
        (
            keys.content_id_from(uri="s3://b/k", sha256="AB" * 32).hex(),
            "99d19fea546ca80e4836e3c327086ce8",
        ),
        (CONTENT.hex(), "ec62e970d964d1f80bbbe240eaac28cf"),
        (
            keys.content_id_from(uri="/x", size=3, mtime_ns=5).hex(),
            "1a89e13055c00f563b6bb4555ddbf030",
        ),
        (keys.content_id_from(uri="/x").hex(), "4b84a2a8c6306e0e8cf6eb52520a183f"),
        (keys.content_id_of_many([CONTENT, CONTENT]).hex(), "0b64640cc246a96ac579cfecfd674741"),
        (
            keys.content_id_rendered(CONTENT, dpi=144, max_page_px=2048).hex(),
            "dbe689ac51bf77713501d87eec512cae",
        ),
        (PROMPT.hex(), "f308b8c805d00285b1e7b7d2df606cdf"),
        (RECIPE, "a51c89c3b296467cb352dc89c353547e"),
        (keys.row_key(CONTENT, None, PROMPT, RECIPE).hex(), "bfd60aab928b01172799a5d2bae405db"),
        (keys.row_key(CONTENT, 7, PROMPT, RECIPE).hex(), "5e2c70b9c68f84d69d6a7bd6b8669cee"),
        (keys.shard_of("doc-1", 64), 12),
    ],
)
def test_keys_never_change(found: object, wanted: object) -> None:
    """Tables on the store hold these bytes."""
    assert found == wanted


def test_what_a_row_asks_decides_its_id() -> None:
    """Order, prompt and occurrence count; a missing prompt is not an empty one."""
    ids = [
        keys.row_id_for(["a", "b"], "p"),
        keys.row_id_for(["b", "a"], "p"),
        keys.row_id_for(["ab"], "p"),
        keys.row_id_for(["a"], "bp"),
        keys.row_id_for(["a"], ""),
        keys.row_id_for(["a"], None),
        keys.row_id_for(["a"], None, 1),
        keys.row_id_for([], "a"),
    ]
    assert len(set(ids)) == len(ids)


def test_stronger_evidence_of_content_wins() -> None:
    """A sha256 makes etag and place irrelevant; an etag makes the place irrelevant."""
    by_hash = keys.content_id_from(uri="x", sha256="ab", etag="e", size=1)
    assert by_hash == keys.content_id_from(uri="y", sha256="AB")
    by_etag = keys.content_id_from(uri="x", etag="e", size=1, mtime_ns=5)
    assert by_etag == keys.content_id_from(uri="y", etag='"e"', size=1)
    assert by_etag != keys.content_id_from(uri="x", etag="e", size=2)
    by_time = keys.content_id_from(uri="x", size=1, mtime_ns=5)
    assert by_time != keys.content_id_from(uri="y", size=1, mtime_ns=5)
    assert by_time != keys.content_id_from(uri="x", size=1, mtime_ns=6)


def test_one_image_counts_as_itself_and_several_in_order() -> None:
    """A row with one image in a list equals the same row with a plain column."""
    other = keys.content_id_from(uri="other")
    assert keys.content_id_of_many([CONTENT]) == CONTENT
    assert keys.content_id_of_many([CONTENT, other]) != keys.content_id_of_many([other, CONTENT])


def test_recipe_ignores_spelling_but_not_values() -> None:
    """A job file with its keys in another order must not run 10^9 rows again."""
    first = keys.recipe_digest({"a": {"x": 1, "y": 0.0}, "b": (1, 2)})
    assert first == keys.recipe_digest({"b": [1, 2], "a": {"y": 0, "x": 1}})
    assert first != keys.recipe_digest({"b": [2, 1], "a": {"y": 0, "x": 1}})
    assert keys.recipe_digest({"a": 0}) != keys.recipe_digest({"a": False})
    with pytest.raises(ValueError, match="JSON"):
        keys.recipe_digest({"a": float("nan")})


@given(
    first=st.tuples(st.binary(max_size=4), st.none() | st.integers(0, 3), st.binary(max_size=4)),
    second=st.tuples(st.binary(max_size=4), st.none() | st.integers(0, 3), st.binary(max_size=4)),
)
def test_row_keys_differ_wherever_a_field_does(
    first: tuple[bytes, int | None, bytes], second: tuple[bytes, int | None, bytes]
) -> None:
    """Bytes that move from one field to its neighbour must not give the same key."""
    are_equal = keys.row_key(*first, "r") == keys.row_key(*second, "r")
    assert are_equal == (first == second)


def test_row_key_refuses_a_negative_page() -> None:
    """-1 stands for an image inside the digest."""
    with pytest.raises(ValueError, match="page_index is -1"):
        keys.row_key(CONTENT, -1, PROMPT, RECIPE)


def test_lone_surrogates_have_keys_of_their_own() -> None:
    """File names that are not UTF-8 arrive as surrogates."""
    assert keys.shard_of("a\udc80", 2**62) != keys.shard_of("a\udc81", 2**62)


def test_shards_fill_evenly() -> None:
    """A lopsided shard is a Dataset that does not fit the driver."""
    counts = [0] * 10
    for index in range(10_000):
        counts[keys.shard_of(f"row-{index}", 10)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150


def test_row_keys_are_cheap() -> None:
    """10^9 rows are planned on a few cores; the real rate is above 10^6 per second."""
    started = time.process_time()
    for index in range(50_000):
        keys.row_key(CONTENT, index, PROMPT, RECIPE)
    assert 50_000 / (time.process_time() - started) > 300_000


def test_what_an_answer_must_satisfy_is_part_of_the_prompt() -> None:
    """Another schema gives other answers; a prompt without one keeps the key it always had."""
    text = "Describe the image in one sentence."
    digests = [
        PROMPT,
        keys.prompt_digest(text, schema="{}"),
        keys.prompt_digest(text, schema='{"type":"string"}'),
        keys.prompt_digest(text, regex="{}"),
        keys.prompt_digest(text + "schema", regex="{}"),
    ]
    assert len(set(digests)) == len(digests)
    assert digests[1].hex() == "de0a745083fed52e8ba25ce691cc9f3e"
    assert digests[3].hex() == "6b141f092325d9d0b1f2516e7eb2f984"
