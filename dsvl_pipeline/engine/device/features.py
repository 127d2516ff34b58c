"""Image features by digest: equal pictures are encoded once.

Letters: ``S`` edge in pixels, ``D`` width of the language model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dsvl_pipeline.engine.schedule.sequence import Sequence
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.image_config import ImageConfig, TowerImageConfig
from dsvl_pipeline.records import ImageInput

# Features that no sequence needs any more and that the next one may: 64 take 300 MB on a 7B.
_NUM_SPARE = 64
# Larger batches no longer fill a GPU better, and SAM's activations grow with them.
_IMAGES_PER_PASS_ON_GPU = 16
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
        self._normalise_low = _Normaliser(image_config.low_res, self._device, self._dtype)
        high_res = image_config.high_res
        self._normalise_high = (
            _Normaliser(high_res, self._device, self._dtype) if high_res else None
        )
        on_gpu = self._device.type == "cuda"
        self._images_per_pass = _IMAGES_PER_PASS_ON_GPU if on_gpu else _IMAGES_PER_PASS_ON_CPU
        # Pictures travel beside the work that is queued, not behind it.
        self._copying = torch.cuda.Stream(self._device) if on_gpu else None  # type: ignore[no-untyped-call]
        # Least recently used first.
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._holders: set[int] = set()

    @property
    def images_per_pass(self) -> int:
        return self._images_per_pass

    def hold(self, sequences: Seq[Sequence], upcoming: Seq[Sequence] = ()) -> int:
        """Make the features of these sequences available until `release`.

        Args:
            sequences: That are prefilled now.
            upcoming: That will be soon: some of their pictures fill up the last pass.

        Returns:
            How many images had to be encoded; 0 costs nothing.
        """
        missing = self._missing(sequences)
        room = -len(missing) % self._images_per_pass
        if missing and room:
            ahead = self._missing(upcoming)
            new = (entry for entry in ahead.items() if entry[0] not in missing)
            missing |= dict(list(islice(new, room)))
        self.encode(list(missing.values()))
        for sequence in sequences:
            self._hold(sequence)
        for sequence in upcoming:
            if all(image.digest in self._entries for image in sequence.request.images):
                self._hold(sequence)
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

    def encode(self, images: Seq[ImageInput]) -> None:
        """Encode images in passes, smaller ones where the memory does not suffice."""
        first = 0
        while first < len(images):
            some = images[first : first + self._images_per_pass]
            try:
                encoded = self._encode(some)
            except torch.OutOfMemoryError:
                if len(some) == 1:
                    raise
                encoded = None
            if encoded is None:  # outside: the exception holds what the pass had taken
                torch.cuda.empty_cache()
                self._images_per_pass = len(some) // 2
                continue
            for image, features in zip(some, encoded, strict=True):
                # A view would keep the whole pass in memory until its last image is evicted.
                self._entries[image.digest] = _Entry(features.clone(), num_users=0)
            first += len(some)

    def _encode(self, images: Seq[ImageInput]) -> Tensor:
        """Return ``[N, num_image_tokens, D]``."""
        low_res = self._upload([image.low_res for image in images])
        high_res = None
        if self._normalise_high is not None:
            pictures = [image.high_res for image in images if image.high_res is not None]
            high_res = self._normalise_high(self._upload(pictures))
        return self._model.encode_images(self._normalise_low(low_res), high_res)

    def _upload(self, pictures: Seq[NDArray[Any]]) -> list[Tensor]:
        """Return the pictures on the device, those of one kind in one tensor."""
        groups: list[Tensor] = []
        for _, some in groupby(pictures, key=lambda picture: (picture.dtype, picture.shape)):
            # Arrays out of an object store are read-only, which torch would warn of.
            stacked = np.stack(list(some))
            groups.append(torch.from_numpy(stacked))
        if self._copying is None:
            return groups
        with torch.cuda.stream(self._copying):
            groups = [group.pin_memory().to(self._device, non_blocking=True) for group in groups]
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._copying)
        for group in groups:
            group.record_stream(current)
        return groups

    def _missing(self, sequences: Seq[Sequence]) -> dict[bytes, ImageInput]:
        return {
            image.digest: image
            for sequence in sequences
            for image in sequence.request.images
            if image.digest not in self._entries
        }

    def _hold(self, sequence: Sequence) -> None:
        if sequence.number not in self._holders:
            self._holders.add(sequence.number)
            for image in sequence.request.images:
                self._entries[image.digest].num_users += 1
                self._entries.move_to_end(image.digest)

    def _evict(self) -> None:
        spare = [digest for digest, entry in self._entries.items() if not entry.num_users]
        for digest in spare[: max(len(spare) - _NUM_SPARE, 0)]:
            del self._entries[digest]


class _Normaliser:
    """One tower's pixel values, bytes through the reference's own table."""

    def __init__(self, tower: TowerImageConfig, device: torch.device, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._table = torch.from_numpy(tower.table).to(device, dtype).view(-1, 1)  # (3 * 256, 1)
        self._firsts = torch.arange(0, 3 * 256, 256, dtype=torch.int32, device=device)

    def __call__(self, groups: Seq[Tensor]) -> Tensor:
        """Return ``[N, 3, S, S]`` for ``uint8[n, S, S, 3]`` or ``float32[n, 3, S, S]`` each."""
        return torch.cat([self._normalise(group) for group in groups])

    def _normalise(self, pixels: Tensor) -> Tensor:
        if pixels.dtype != torch.uint8:
            return pixels.to(self._dtype)
        entries = pixels.permute(0, 3, 1, 2) + self._firsts[:, None, None]
        return F.embedding(entries, self._table).squeeze(-1)
