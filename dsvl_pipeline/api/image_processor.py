"""The image processors of the reference documentation.

Source of the behaviour: the PIL image processors of ``deepseek_vl`` and ``deepseek_vl_hybrid``,
transformers 5.23.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict, Unpack

import torch

from dsvl_pipeline.api import pictures
from dsvl_pipeline.api.image_steps import Steps
from dsvl_pipeline.api.inputs import ModelInputs, TensorKind, stack
from dsvl_pipeline.api.locating import FILE_OPTIONS, Name, locate
from dsvl_pipeline.api.processor_files import check_family
from dsvl_pipeline.model.image_config import (
    CLIP_MEAN,
    CLIP_STD,
    ImageConfig,
    TowerImageConfig,
    read_image_processor_config,
)
from dsvl_pipeline.model.json_files import read_json, reading, side, triple

Numbers = float | list[float] | tuple[float, ...]


class Size(dict[str, int]):
    """Height and width in pixels, by key and as attributes."""

    @property
    def height(self) -> int:
        return self["height"]

    @property
    def width(self) -> int:
        return self["width"]


class ImageOptions(TypedDict, total=False):
    """What an image processor takes, when it is made and when it is called.

    Attributes:
        do_convert_rgb: False leaves pictures in the colours that they have.
        do_resize: Whether pictures are scaled.
        size: Edge of the low-resolution picture: a number, or equal height and width.
        high_res_size: The same of the high-resolution one; only with two towers, as all such.
        resample: Pillow's number of the filter.
        do_rescale: Whether values are multiplied by ``rescale_factor``.
        do_normalize: Whether mean and standard deviation are taken out.
        do_pad: Whether pictures are made square.
        min_size: Least length of the shorter edge, in pixels.
        input_data_format: ``channels_first`` or ``channels_last``: where arrays have them.
        data_format: Only ``channels_first``.
        return_tensors: Stack into tensors or arrays; None gives lists of arrays.
        device: Where tensors go.
        disable_grouping: Accepted and without effect; so are those that follow.
    """

    do_convert_rgb: bool | None
    do_resize: bool | None
    size: int | list[int] | tuple[int, ...] | dict[str, int]
    high_res_size: int | list[int] | tuple[int, ...] | dict[str, int]
    resample: int | None
    high_res_resample: int | None
    do_rescale: bool | None
    rescale_factor: float
    do_normalize: bool | None
    image_mean: Numbers | None
    image_std: Numbers | None
    high_res_image_mean: Numbers | None
    high_res_image_std: Numbers | None
    do_pad: bool | None
    min_size: int
    input_data_format: str | None
    data_format: str | None
    return_tensors: TensorKind | None
    device: torch.device | str | None
    disable_grouping: bool | None
    default_to_square: bool | None
    crop_size: Any
    pad_size: Any
    do_center_crop: bool | None
    image_seq_length: int | None


class DeepseekVLImageProcessor:
    """Pictures to pixel values.

    What `ImageOptions` names are attributes. Others that are given are kept and saved as well.
    """

    is_hybrid: ClassVar[bool] = False
    model_input_names: ClassVar[list[str]] = ["pixel_values"]
    backend = "pil"

    do_resize = do_rescale = do_normalize = do_pad = True
    size: Any = Size(height=384, width=384)
    resample = 3
    rescale_factor = 1 / 255
    image_mean = CLIP_MEAN
    image_std = CLIP_STD
    min_size = 14

    def __init__(self, *, allow_http: bool = False, **settings: Any) -> None:
        """Take what is given, and the reference's defaults for the rest.

        Args:
            allow_http: Whether web addresses of pictures are fetched. Not saved.
            settings: `ImageOptions`, and anything else.

        Raises:
            ValueError: A size is no square, or a mean has not three numbers.
        """
        self._allow_http = allow_http
        for name in ("feature_extractor_type", "processor_class", "image_processor_type"):
            settings.pop(name, None)
        for name in self._names():
            value = settings.pop(name, getattr(type(self), name, None))
            setattr(self, name, _standard(name, copy.deepcopy(value)))
        for name, value in settings.items():
            setattr(self, name, value)
        # as upstream from the means it was made with, whatever a file or a call says
        self.background_color = _background(self.image_mean)

    @classmethod
    def _names(cls) -> list[str]:
        names = ImageOptions.__annotations__
        return [name for name in names if cls.is_hybrid or not name.startswith("high_res_")]

    @classmethod
    def from_pretrained(cls, name: Name, **options: Any) -> Self:
        """Read a directory's, hub id's or JSON file's settings. No weights are downloaded.

        Args:
            name: Holds ``processor_config.json`` or ``preprocessor_config.json``.
            options: Those of `locate`; the others replace settings, as in `from_dict`.

        Raises:
            CheckpointError: The files are missing or broken, or it is of the other architecture.
        """
        found, options = cls.get_image_processor_dict(name, **options)
        with reading(str(name)):
            return cls.from_dict(found, **options)

    @classmethod
    def get_image_processor_dict(
        cls, name: Name, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what the files say, and the options that say not where they lie."""
        where = {key: options.pop(key) for key in FILE_OPTIONS & options.keys()}
        if os.path.isfile(name):
            found = read_json(Path(name))
            return found.get("image_processor", found), options
        directory = locate(name, needs="processor", **where)
        check_family(directory, is_hybrid=cls.is_hybrid, class_name=cls.__name__)
        return dict(read_image_processor_config(directory)), options

    @classmethod
    def from_dict(cls, image_processor_dict: Mapping[str, Any], **options: Any) -> Self:
        """Make one of a dictionary.

        Args:
            image_processor_dict: Settings.
            options: Replace them, where they name one; ``allow_http``; with
                ``return_unused_kwargs`` the others are returned as well. Else they are ignored.
        """
        returns_unused = options.pop("return_unused_kwargs", False)
        settings = dict(image_processor_dict)
        allow_http = options.pop("allow_http", False)
        for name in {*cls._names(), *settings} & options.keys():
            settings[name] = options.pop(name)
        made = cls(allow_http=allow_http, **settings)
        return (made, options) if returns_unused else made  # type: ignore[return-value]

    @classmethod
    def from_json_file(cls, json_file: Name) -> Self:
        """Read settings from a JSON file."""
        return cls(**read_json(Path(json_file)))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that are set."""
        found = {
            name: copy.deepcopy(value)
            for name, value in vars(self).items()
            # None counts only where somebody has put it in the place of a default
            if not name.startswith("_") and (value is not None or hasattr(type(self), name))
        }
        return {**found, "image_processor_type": type(self).__name__}

    def to_json_string(self) -> str:
        """Return the settings as JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: Name) -> None:
        """Write the settings into a file."""
        Path(json_file_path).write_text(self.to_json_string(), encoding="utf-8")

    def save_pretrained(self, save_directory: Name, push_to_hub: bool = False) -> list[str]:
        """Write ``preprocessor_config.json``, and return its path in a list.

        Raises:
            NotImplementedError: With ``push_to_hub``.
        """
        if push_to_hub:
            raise NotImplementedError(
                "push_to_hub cannot be done here; use save_pretrained, then `hf upload`"
            )
        os.makedirs(save_directory, exist_ok=True)
        file = Path(save_directory) / "preprocessor_config.json"
        self.to_json_file(file)
        return [str(file)]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    def __call__(
        self, images: Any, *, allow_http: bool | None = None, **options: Unpack[ImageOptions]
    ) -> ModelInputs:
        """Prepare pictures, see `preprocess`."""
        return self.preprocess(images, allow_http=allow_http, **options)

    def preprocess(
        self, images: Any, *, allow_http: bool | None = None, **options: Unpack[ImageOptions]
    ) -> ModelInputs:
        """Prepare pictures.

        Args:
            images: One picture, or lists of them, however nested: paths, ``file://`` or ``data:``
                URLs, the bytes of a file, Pillow pictures, arrays or tensors with channels first
                or last, or batches of these.
            allow_http: Whether web addresses are fetched, instead of what the constructor was
                told. Only public ones ever are.
            options: In place of the attributes of these names.

        Returns:
            ``pixel_values`` ``float32[N, 3, S, S]`` and, with two towers, the same of another
            size as ``high_res_pixel_values``.

        Raises:
            ImageError: A picture cannot be had or decoded. It is a ValueError as well.
            ValueError: An option, or a picture's shape, cannot be used.
            TypeError: There is no such option.
        """
        if unknown := sorted(options.keys() - set(self._names())):
            raise TypeError(f"{type(self).__name__} has no option {unknown[0]!r}")
        wanted: dict[str, Any] = {name: getattr(self, name) for name in self._names()}
        wanted |= options
        steps = self._steps(wanted)
        allowed = self._allow_http if allow_http is None else allow_http
        made = [
            steps.run(pictures.read(source, allow_http=allowed))
            for source in pictures.flatten(images)
        ]
        values = {"pixel_values": [low for low, _ in made]}
        if self.is_hybrid:
            values["high_res_pixel_values"] = [high for _, high in made if high is not None]
        kind = wanted["return_tensors"]
        inputs = ModelInputs({name: stack(found, kind) for name, found in values.items()})
        return inputs if wanted["device"] is None else inputs.to(device=wanted["device"])

    def _steps(self, wanted: Mapping[str, Any]) -> Steps:
        order = getattr(wanted["data_format"], "value", wanted["data_format"])
        if order not in (None, "channels_first"):
            raise ValueError(f"data_format is {order!r}; pixel values are 'channels_first' only")
        return Steps(
            config=ImageConfig(
                low_res=self._tower(wanted, ""),
                high_res=self._tower(wanted, "high_res_") if self.is_hybrid else None,
                min_size_px=int(wanted["min_size"]),
            ),
            does_resize=bool(wanted["do_resize"]),
            does_pad=bool(wanted["do_pad"]),
            does_rescale=bool(wanted["do_rescale"]),
            does_normalize=bool(wanted["do_normalize"]),
            does_convert=wanted["do_convert_rgb"] is not False,
            input_order=wanted["input_data_format"],
        )

    def _tower(self, wanted: Mapping[str, Any], prefix: str) -> TowerImageConfig:
        mean, std = wanted[f"{prefix}image_mean"], wanted[f"{prefix}image_std"]
        if wanted["do_normalize"] and (mean is None or std is None):
            raise ValueError(f"do_normalize needs {prefix}image_mean and {prefix}image_std")
        if wanted["do_rescale"] and wanted["rescale_factor"] is None:
            raise ValueError("do_rescale needs a rescale_factor")
        return TowerImageConfig(
            side_px=side(wanted[f"{prefix}size"], 0, f"the option {prefix}size"),
            mean=triple(0.0 if mean is None else mean),
            std=triple(1.0 if std is None else std),
            # upstream takes 0 (nearest) for "not given"
            resample=int(wanted[f"{prefix}resample"] or self.resample or 0),
            background=getattr(self, f"{prefix}background_color"),
            rescale_factor=float(wanted["rescale_factor"] or 0),
        )


class DeepseekVLHybridImageProcessor(DeepseekVLImageProcessor):
    """Pictures to pixel values for two towers."""

    is_hybrid = True
    model_input_names = ["pixel_values", "high_res_pixel_values"]  # noqa: RUF012

    high_res_size: Any = Size(height=1024, width=1024)
    high_res_resample = 3
    high_res_image_mean = CLIP_MEAN
    high_res_image_std = CLIP_STD

    def __init__(self, *, allow_http: bool = False, **settings: Any) -> None:
        super().__init__(allow_http=allow_http, **settings)
        self.high_res_background_color = _background(self.high_res_image_mean)


# The reference's names of what uses Pillow, which here both do.
DeepseekVLImageProcessorPil = DeepseekVLImageProcessor
DeepseekVLHybridImageProcessorPil = DeepseekVLHybridImageProcessor


def _standard(name: str, value: Any) -> Any:
    """Give a setting the form in which it is kept."""
    if value is None:
        return None
    if name in ("size", "high_res_size"):
        edge = side(value, 0, f"the option {name}")
        return Size(height=edge, width=edge)
    return tuple(value) if isinstance(value, list) else value


def _background(mean: Numbers | None) -> tuple[int, int, int]:
    if mean is None:
        return (127, 127, 127)
    red, green, blue = triple(mean)
    return (int(red * 255), int(green * 255), int(blue * 255))
