"""Batches of pages and scenes, drawn by worker processes; the curriculum.

Batch ``i`` of a rank depends on the seed, the rank and ``i`` alone, and on the level at the time of
its drawing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from tools.demo_checkpoint import pages, scenes, shape
from tools.demo_checkpoint.drawing import Drawing
from tools.demo_checkpoint.words import TRAINING

NO_TARGET = -100  # as cross_entropy takes it
A_PAGE = "a page of text"  # what a page is described as
# Answers with their end are padded to one of these lengths, so that few shapes are compiled; with
# the 259 tokens before the first target they are 352, 480 and 672.
ANSWER_TOKENS = (93, 221, 413)
MAX_LINES, MAX_CHARS = 12, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How hard pages are.

    Attributes:
        max_lines: Most lines of a page.
        max_chars: Most characters of a line.
        shares: How often each of `ANSWER_TOKENS` is used.
    """

    max_lines: int
    max_chars: int
    shares: tuple[float, float, float]


# Some longer pages are there from the start: they hold the most characters to be named in cells.
LEVELS = (
    Level(max_lines=1, max_chars=5, shares=(0.8, 0.2, 0.0)),
    Level(max_lines=1, max_chars=16, shares=(0.8, 0.2, 0.0)),
    Level(max_lines=3, max_chars=24, shares=(0.7, 0.3, 0.0)),
    Level(max_lines=6, max_chars=32, shares=(0.5, 0.4, 0.1)),
    Level(max_lines=12, max_chars=32, shares=(0.4, 0.3, 0.3)),
)


class Batches(Dataset[dict[str, Tensor]]):
    """Endless batches of one rank."""

    def __init__(
        self, *, size: int, seed: int, rank: int, first: int, level: Callable[[], int]
    ) -> None:
        """Prepare, drawing nothing.

        Args:
            size: Pictures in a batch.
            seed: Of the whole training.
            rank: Which of several trainers this is.
            first: Number of the first batch.
            level: Gives the present index into `LEVELS`.
        """
        self._size, self._seed, self._rank, self._first = size, seed, rank, first
        self._level = level

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        index += self._first
        level = LEVELS[self._level()]
        # The same length on every rank, for each waits for the slowest.
        shared = Random(f"{self._seed}/length/{index}")
        bucket = shared.choices(range(len(ANSWER_TOKENS)), level.shares)[0]
        random = Random(f"{self._seed}/{self._rank}/{index}")
        drawn = [draw(random, level, bucket) for _ in range(self._size)]
        return assemble(drawn, ANSWER_TOKENS[bucket])


def draw(random: Random, level: Level, bucket: int) -> tuple[Drawing, str, str]:
    """Draw one picture of a batch.

    Returns:
        The picture, the prompt, and what is to be answered.
    """
    budget = ANSWER_TOKENS[bucket] - 1
    if bucket == 0 and random.random() < 0.5:
        scene = scenes.drawing(random)
        if random.random() < 0.03:  # nothing to read
            return scene, shape.TRANSCRIBE, ""
        return scene, shape.DESCRIBE, scene.answer
    if bucket == 0:
        num_lines = 1 if random.random() < 0.5 else random.randint(1, level.max_lines)
        max_chars = min(level.max_chars, max(1, budget // num_lines - 1))
        if num_lines > 1 and random.random() < 0.5:  # a few longer lines
            num_lines, max_chars = min(num_lines, 4), level.max_chars
    elif bucket == 1:
        num_lines, max_chars = random.randint(3, max(6, level.max_lines)), MAX_CHARS
    else:
        num_lines, max_chars = random.randint(7, MAX_LINES), MAX_CHARS
    page = pages.page(random, TRAINING, num_lines=num_lines, max_chars=max_chars, budget=budget)
    if bucket == 0 and random.random() < 0.04:
        return page, shape.DESCRIBE, A_PAGE
    return page, shape.TRANSCRIBE, page.answer


def assemble(drawn: list[tuple[Drawing, str, str]], num_tokens: int) -> dict[str, Tensor]:
    """Stack pictures and encode answers.

    Returns:
        ``canvas`` uint8[B, 512, 512], ``palette`` uint8[B, 4, 3], ``is_scene`` bool[B], ``frame``
        int16[B, 4], ``theta`` float32[B, 2, 3] for ``affine_grid``, ``spoiling`` float32[B, 4]
        (blur, noise, shading), ``slots`` uint8[B, 256, SLOTS], ``prompt`` int64[B], ``answer``
        int64[B, num_tokens] with `NO_TARGET` behind the end.
    """
    pictures = [picture for picture, _, _ in drawn]
    answer = np.full((len(drawn), num_tokens), NO_TARGET, np.int64)
    for row, (_, _, text) in zip(answer, drawn, strict=True):
        ids = encode(text)
        row[: len(ids)] = ids
        row[len(ids)] = shape.EOS_ID
    spoiling = [(p.effects.blur, p.effects.noise, *p.effects.shading) for p in pictures]
    arrays = {
        "canvas": np.stack([p.canvas for p in pictures]),
        "palette": np.stack([p.palette for p in pictures]),
        "is_scene": np.array([p.is_scene for p in pictures]),
        "frame": np.array([p.frame for p in pictures], np.int16),
        "theta": np.stack([_theta(p.effects.matrix) for p in pictures]),
        "spoiling": np.array(spoiling, np.float32),
        "slots": np.stack([p.slots for p in pictures]),
        "prompt": np.array([prompt_id(prompt) for _, prompt, _ in drawn], np.int64),
        "answer": answer,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def encode(text: str) -> NDArray[np.int64]:
    """Encode printable ASCII and newlines as the tokenizer does, which has no merges."""
    ids: NDArray[np.int64] = _BYTE_IDS[np.frombuffer(text.encode("ascii"), np.uint8)]
    return ids


def prompt_id(prompt: str) -> int:
    """The token of one of the two prompts."""
    return _PROMPT_IDS[prompt]


def _theta(matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Where each place of the picture comes from; both count from the centre."""
    theta = np.zeros((2, 3), np.float32)
    theta[:, :2] = np.linalg.inv(matrix)
    return theta


def _ids(text: str) -> list[int]:
    ids: list[int] = _TOKENIZER.encode(text, add_special_tokens=False).ids
    return ids


_TOKENIZER = shape.tokenizer()
_BYTE_IDS = np.array([_ids(chr(byte))[0] for byte in range(128)], np.int64)
_PROMPT_IDS = {prompt: _ids(prompt)[0] for prompt in (shape.TRANSCRIBE, shape.DESCRIBE)}
BEFORE_IMAGE_IDS = (shape.BOS_ID, *_ids(shape.BEFORE_IMAGE))
BEFORE_ANSWER_ID = _ids("\n\nAssistant:")[0]
