"""Image features by digest: equal pictures are encoded once.

Letters: ``S`` edge in pixels, ``D`` width of the language model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from dsvl_pipeline.engine.sequence import Sequence
from dsvl_pipeline.model.config import ImageConfig, TowerImageConfig
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.records import ImageInput

# Features that no sequence needs any more and that the next one may: 64 take 300 MB on a 7B.
_NUM_SPARE = 64
# Larger batches no longer fill a GPU better, and SAM's activations grow with them.
_IMAGES_PER_PASS_ON_GPU = 8
# A core is busy with one image, and alone an image's features cannot depend on its neighbours.
_IMAGES_PER_PASS_ON_CPU = 1


@dataclass(slots=True)
class _Entry:
    features: Tensor  # [num_image_tokens, D]
    num_users: int


class ImageFeatures:
    """Encode the images of sequences and keep their features while a sequence needs them.

    A preempted sequence keeps its own, so that its second prefill needs no vision.
    """

    def __init__(self, model: DeepseekVL, image_config: ImageConfig) -> None:
        self._model = model
        parameter = next(model.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self._normalise_low = _Normaliser(image_config.low_res, self._device)
        self._normalise_high = (
            _Normaliser(image_config.high_res, self._device) if image_config.high_res else None
        )
        # Least recently used first.
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._holders: set[int] = set()

    def hold(self, sequences: Seq[Sequence]) -> int:
        """Make the features of these sequences available until `release`.

        Returns:
            How many images had to be encoded; 0 costs nothing.
        """
        missing: dict[bytes, ImageInput] = {}
        for sequence in sequences:
            for image in sequence.request.images:
                if image.digest not in self._entries:
                    missing[image.digest] = image
        self._encode(list(missing.values()))
        for sequence in sequences:
            if sequence.number not in self._holders:
                self._holders.add(sequence.number)
                for image in sequence.request.images:
                    self._entries[image.digest].num_users += 1
                    self._entries.move_to_end(image.digest)
        self._evict()
        return len(missing)

    def release(self, sequence: Sequence) -> None:
        """Let go of a finished sequence's features, if it ever held any."""
        if sequence.number in self._holders:
            self._holders.remove(sequence.number)
            for image in sequence.request.images:
                self._entries[image.digest].num_users -= 1
            self._evict()

    def rows(self, sequence: Sequence, start: int, end: int) -> list[Tensor]:
        """Return the features of a sequence's image tokens ``start`` to ``end``, in order.

        Args:
            sequence: One that holds its features.
            start: Place among the sequence's image tokens, over all of its images.
            end: The same, exclusive.
        """
        size = self._model.config.num_image_tokens
        return [
            self._entries[image.digest].features[max(start - size * n, 0) : max(end - size * n, 0)]
            for n, image in enumerate(sequence.request.images)
            if start < size * (n + 1) and end > size * n
        ]

    def _encode(self, images: Seq[ImageInput]) -> None:
        on_cpu = self._device.type == "cpu"
        size = _IMAGES_PER_PASS_ON_CPU if on_cpu else _IMAGES_PER_PASS_ON_GPU
        for first in range(0, len(images), size):
            some = images[first : first + size]
            low_res = self._normalise_low([image.low_res for image in some])
            high_res = None
            if self._normalise_high is not None:
                pictures = [image.high_res for image in some if image.high_res is not None]
                high_res = self._normalise_high(pictures).to(self._dtype)
            encoded = self._model.encode_images(low_res.to(self._dtype), high_res)
            for image, features in zip(some, encoded, strict=True):
                # A view would keep the whole pass in memory until its last image is evicted.
                self._entries[image.digest] = _Entry(features.clone(), num_users=0)

    def _evict(self) -> None:
        spare = [digest for digest, entry in self._entries.items() if not entry.num_users]
        for digest in spare[: max(len(spare) - _NUM_SPARE, 0)]:
            del self._entries[digest]


class _Normaliser:
    """Bring one tower's pictures to the device, bytes through the reference's own table."""

    def __init__(self, tower: TowerImageConfig, device: torch.device) -> None:
        self._device = device
        self._table = torch.from_numpy(tower.table).to(device)  # (3, 256)

    def __call__(self, pictures: Seq[NDArray[Any]]) -> Tensor:
        """Return ``float32[N, 3, S, S]`` for ``uint8[S, S, 3]`` or ``float32[3, S, S]`` each."""
        return torch.stack([self._normalise(picture) for picture in pictures])

    def _normalise(self, picture: NDArray[Any]) -> Tensor:
        # torch.tensor copies: arrays out of an object store are read-only, which torch warns of.
        pixels = torch.tensor(picture, device=self._device)
        if pixels.dtype != torch.uint8:
            return pixels
        channels = pixels.permute(2, 0, 1)
        return self._table.gather(1, channels.flatten(1).long()).view(channels.shape)
