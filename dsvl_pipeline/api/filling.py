"""Weights of any origin into a public model: those that fit, with a report of the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.model.names import is_ignored


class MismatchError(CheckpointError, RuntimeError):
    """Tensors have other shapes than the config says."""


@dataclass(slots=True, kw_only=True)
class Report:
    """Which names do not fit.

    Attributes:
        missing: Of the model, without weights: they are random.
        unexpected: Of the weights, without a place in the model.
        mismatched: Names with the shape that was found and the one that is needed.
    """

    missing: set[str] = field(default_factory=set)
    unexpected: set[str] = field(default_factory=set)
    mismatched: set[tuple[str, torch.Size, torch.Size]] = field(default_factory=set)

    @property
    def info(self) -> dict[str, object]:
        """The same as the reference reports it."""
        return {
            "missing_keys": self.missing,
            "unexpected_keys": self.unexpected,
            "mismatched_keys": self.mismatched,
            "error_msgs": [],
        }

    def require_shapes(self, where: object, *, is_allowed: bool) -> None:
        """Refuse mismatches, unless they are allowed.

        Raises:
            MismatchError: There are some.
        """
        for name, found, wanted in [] if is_allowed else sorted(self.mismatched):
            raise MismatchError(
                f"{where}: {len(self.mismatched)} tensors do not have the shape that the config "
                f"asks for, first '{name}' with {list(found)} instead of {list(wanted)}; with "
                f"ignore_mismatched_sizes=True they become random"
            )

    def warnings(self) -> Iterator[str]:
        """Say what the caller should know."""
        if self.missing:
            first = min(self.missing)
            yield f"{len(self.missing)} weights are not there and random, first '{first}'"
        if self.unexpected:
            first = min(self.unexpected)
            yield f"{len(self.unexpected)} weights are unknown and left out, first '{first}'"
        if self.mismatched:
            yield f"{len(self.mismatched)} weights of other shapes are random instead"


@torch.no_grad()
def fill(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    rename: Mapping[str, str] | None = None,
) -> Report:
    """Copy weights into a model.

    Args:
        model: With random weights, which stay where nothing fits.
        tensors: By name: those of transformers, with the head or without.
        rename: Regular expressions of names, and what replaces them.
    """
    places = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    own_name = _names_for(model, rename or {})
    report, seen = Report(), set()
    for stored, tensor in tensors.items():
        name = own_name(stored)
        place = places.get(name)
        if place is None:
            if not is_ignored(f"model.{name.removeprefix('model.')}"):
                report.unexpected.add(stored)
            continue
        if tensor.dtype.itemsize < 2 or not tensor.is_floating_point():
            raise CheckpointError(
                f"'{stored}' is {tensor.dtype}; quantised weights cannot be run, use the "
                f"checkpoint that they were made from"
            )
        seen.add(name)
        if place.shape != tensor.shape:
            report.mismatched.add((name, tensor.shape, place.shape))
        else:
            place.copy_(tensor)
    report.missing = places.keys() - seen
    return report


def _names_for(model: nn.Module, rename: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function from stored names to those of a model, with head or without."""
    has_head = hasattr(model, "lm_head")

    def own_name(stored: str) -> str:
        for pattern, replacement in rename.items():
            stored = re.sub(pattern, replacement, stored)
        if stored.startswith("lm_head."):
            return stored
        name = stored.removeprefix("model.")
        name = name.replace("vision_model.vision_model.", "vision_model.", 1)
        return f"model.{name}" if has_head else name

    return own_name
