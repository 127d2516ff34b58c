"""What processors take and give: pictures from anywhere, and a dictionary of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dsvl_pipeline.processor import colours, decode
from dsvl_pipeline.store.uris import path_of, scheme_of

ImageSource = str | Path | bytes | Image.Image | NDArray[np.uint8]
TensorKind = Literal["pt", "np"]


class ModelInputs(dict[str, Any]):
    """What a processor makes of text and images: a dictionary whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no {name!r}; there are {', '.join(self)}") from None

    def to(
        self,
        *args: torch.device | torch.dtype | str | int,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Move all tensors, and cast the floating ones: ids stay integers. Changes this object."""
        for arg in args:
            if isinstance(arg, torch.dtype):
                dtype = arg
            else:
                device = arg
        for name, value in self.items():
            if isinstance(value, Tensor):
                self[name] = value.to(device, dtype if value.is_floating_point() else None)
        return self


def flatten(images: ImageSource | Sequence[Any]) -> list[Any]:
    """Return the pictures of lists that may lie in one another, in order."""
    if isinstance(images, list | tuple):
        return [one for some in images for one in flatten(some)]
    return [images]


def load(source: ImageSource) -> Image.Image:
    """Open a picture from wherever a caller may have it."""
    match source:
        case Image.Image():
            return colours.to_rgb(source)
        case np.ndarray():
            return colours.to_rgb(Image.fromarray(source))
        case bytes():
            return decode.decode(source)
    name = str(source)
    if scheme_of(name) in ("http", "https"):
        raise ValueError(
            f"{source} is on the network, where these classes fetch nothing; download it and give "
            "its path, or name it in a job's manifest"
        )
    return decode.decode(Path(path_of(name)).read_bytes())


def stack(rows: list[Any], return_tensors: TensorKind | None) -> Any:
    """Make one tensor or array of equal rows; None leaves them a list."""
    match return_tensors:
        case None:
            return rows
        case "np":
            return np.stack(rows)
        case "pt":
            return torch.from_numpy(np.stack(rows))
    raise ValueError(f"return_tensors is {return_tensors!r}; it must be 'pt', 'np' or None")
