"""What processors give: a dictionary of tensors."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

TensorKind = Literal["pt", "np"]

_NOT_STACKED = ("text_replacement_offsets",)


class ModelInputs(dict[str, Any]):
    """What a processor makes of text and images: a dictionary whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no {name!r}; there are {', '.join(self)}") from None

    @property
    def data(self) -> dict[str, Any]:
        """The same as a plain dictionary."""
        return dict(self)

    def to(
        self,
        *args: torch.device | torch.dtype | str | int,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> Self:
        """Move all tensors, and cast the floating ones: ids stay integers. Changes this object."""
        for arg in args:
            if isinstance(arg, torch.dtype):
                dtype = arg
            else:
                device = arg
        for name, value in self.items():
            if isinstance(value, Tensor):
                wanted = dtype if value.is_floating_point() else None
                self[name] = value.to(device, wanted, non_blocking=non_blocking)
        return self

    def convert_to_tensors(self, tensor_type: TensorKind | None = None) -> Self:
        """Make a tensor or array of every list of equal rows. Changes this object."""
        for name, value in self.items():
            if isinstance(value, list) and name not in _NOT_STACKED:
                self[name] = stack([np.asarray(row) for row in value], tensor_type)
        return self


def stack(rows: list[Any], return_tensors: TensorKind | None) -> Any:
    """Make one tensor or array of equal rows; None leaves them a list.

    Raises:
        ValueError: The rows differ in shape, or there is no such kind of tensors.
    """
    # members of transformers' enumeration hold these texts
    match getattr(return_tensors, "value", return_tensors):
        case None:
            return rows
        case "np" | "pt" as kind:
            if len(shapes := {np.shape(row) for row in rows}) > 1:
                raise ValueError(
                    f"rows of the shapes {', '.join(map(str, sorted(shapes)))} make no tensor; pad "
                    "or resize them, or leave return_tensors out"
                )
            array = np.stack(rows) if rows else np.empty(0)
            return torch.from_numpy(array) if kind == "pt" else array
    raise ValueError(f"return_tensors is {return_tensors!r}; it must be 'pt', 'np' or None")
