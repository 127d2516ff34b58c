"""The parts of a network under the names of the reference, for reading, training and saving.

A network fuses what checkpoints store apart. Its parts hang in a tree of modules whose names are
those of the community's checkpoints. They share the network's memory: nothing is stored twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.linear import Linear
from dsvl_pipeline.model.names import community_names, generic_name, stored_names


class Section(nn.Module):
    """A level of the names. It holds parts and computes nothing itself."""

    def forward(self, *_: Any, **__: Any) -> Any:
        """Refuse: the network computes over all levels at once."""
        raise NotImplementedError(
            "this part of the model cannot be called by itself; call the model, or for pictures "
            "its get_image_features"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A part of the network and where it hangs in the tree, under one name or several.

    Attributes:
        owner: The module of the network that holds the part.
        name: Of the part in its owner.
        holders: Where it hangs: a section and the name in it.
    """

    owner: nn.Module
    name: str
    holders: tuple[tuple[nn.Module, str], ...]

    def follow(self) -> None:
        """Let the network use what now hangs in the tree."""
        found = [getattr(holder, name) for holder, name in self.holders]
        current = getattr(self.owner, self.name)
        if isinstance(current, Linear):
            current.join(found)
        elif current is not found[0]:
            setattr(self.owner, self.name, found[0])


def hang(network: DeepseekVL, root: nn.Module) -> list[Link]:
    """Hang a network's parts, all but the head, into a tree; sections are made as needed.

    Projections are split. What is returned keeps the network in step.
    """
    names = community_names(is_hybrid=network.config.is_hybrid)
    links = []
    for path, module in list(network.named_modules()):
        leaves = dict(module.named_parameters(recurse=False))
        bare = [leaf for leaf in leaves if generic_name(f"{path}.{leaf}") in names]
        for leaf in bare:
            stored = stored_names(f"{path}.{leaf}", names)
            links.append(_hang(module, leaf, [getattr(module, leaf)], root, stored))
        if leaves and not bare and path != "lm_head":
            stored = [one.removesuffix(".weight") for one in stored_names(f"{path}.weight", names)]
            owner, _, name = path.rpartition(".")
            parts = module.split() if isinstance(module, Linear) else [module]
            links.append(_hang(network.get_submodule(owner), name, parts, root, stored))
    return links


def _hang(
    owner: nn.Module,
    name: str,
    parts: Sequence[nn.Module | nn.Parameter],
    root: nn.Module,
    stored: Sequence[str],
) -> Link:
    holders = []
    for part, path in zip(parts, stored, strict=True):
        *levels, leaf = path.removeprefix("model.").split(".")
        section = root
        for level, below in pairwise([*levels, leaf]):
            if not hasattr(section, level):
                section.add_module(level, nn.ModuleList() if below.isdecimal() else Section())
            section = getattr(section, level)
        setattr(section, leaf, part)
        holders.append((section, leaf))
    return Link(owner=owner, name=name, holders=tuple(holders))
