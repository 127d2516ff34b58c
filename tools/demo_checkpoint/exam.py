"""Held-out pages and scenes answered during training, to see how far it is."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dsvl_pipeline.model.image_config import ImageConfig
from dsvl_pipeline.processor.image import image_input
from dsvl_pipeline.records import Pixels
from tools.demo_checkpoint import held_out, shape
from tools.demo_checkpoint.batches import ANSWER_TOKENS, prompt_id
from tools.demo_checkpoint.reader import Reader
from tools.demo_checkpoint.scoring import character_errors

# Not those that `evaluate` judges by.
_FIRST_SEED = 1_000_000


class Exam:
    """The questions of one rank.

    Attributes:
        example: A text of the last time, wanted and found.
    """

    def __init__(self, image_config: ImageConfig, *, rank: int, size: int) -> None:
        seeds = range(_FIRST_SEED + rank * size, _FIRST_SEED + (rank + 1) * size)
        self._image_config = image_config
        self._pages = [held_out.page(seed) for seed in seeds]
        self._scenes = [held_out.scene(seed) for seed in seeds]
        self._tokenizer = shape.tokenizer()
        self.example = ""

    def sit(self, reader: Reader, device: torch.device) -> Tensor:
        """Answer.

        Returns:
            ``float64[6]``: edits, characters, captions right, captions, and edits and characters
            of pages of a single line.
        """
        most = max(len(text) for _, text in self._pages) + 20
        wanted = [text for _, text in self._pages]
        images = [image for image, _ in self._pages]
        found = self._answers(
            reader, images, shape.TRANSCRIBE, min(most, ANSWER_TOKENS[-1]), device
        )
        self.example = f"wanted {wanted[0]!r}\nfound  {found[0]!r}"
        single = [index for index, text in enumerate(wanted) if "\n" not in text]
        short = character_errors([found[i] for i in single], [wanted[i] for i in single])
        captions = [caption for _, caption in self._scenes]
        scenes = [image for image, _ in self._scenes]
        said = self._answers(reader, scenes, shape.DESCRIBE, ANSWER_TOKENS[0], device)
        right = sum(a == b for a, b in zip(said, captions, strict=True))
        counts = (*character_errors(found, wanted), right, len(captions), *short)
        return torch.tensor(counts, dtype=torch.float64, device=device)

    def _answers(
        self,
        reader: Reader,
        images: list[Image.Image],
        prompt: str,
        most: int,
        device: torch.device,
    ) -> list[str]:
        low, high = self._image_config.low_res, self._image_config.high_res
        assert high is not None
        low_res, high_res = [], []
        for image in images:
            made = image_input(image, self._image_config)
            assert made.high_res is not None
            low_res.append(made.low_res)
            high_res.append(made.high_res)
        prompts = torch.full((len(images),), prompt_id(prompt), device=device)
        answers = reader.generate(
            _normalise(low_res, low.table, device),
            _normalise(high_res, high.table, device),
            prompts,
            most,
        )
        return [self._decode(ids) for ids in answers.tolist()]

    def _decode(self, ids: list[int]) -> str:
        end = ids.index(shape.EOS_ID) if shape.EOS_ID in ids else len(ids)
        text: str = self._tokenizer.decode(ids[:end])
        return text


def _normalise(pixels: list[Pixels], table: NDArray[np.float32], device: torch.device) -> Tensor:
    """Bytes to pixel values by the processor's own table: ``float32[N, 3, S, S]``."""
    stacked = np.stack(pixels)
    values = np.stack([table[channel][stacked[..., channel]] for channel in range(3)], axis=1)
    return torch.from_numpy(values).to(device)
