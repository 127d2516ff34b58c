"""Where the files lie that ``from_pretrained`` reads, by the reference's arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dsvl_pipeline import hub
from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.hub import Download, Need
from dsvl_pipeline.model import original
from dsvl_pipeline.model.config import read_config
from dsvl_pipeline.model.json_files import read_json

Name = str | os.PathLike[str]

# The arguments of `locate` by which a caller says where files lie.
FILE_OPTIONS = frozenset(
    ("revision", "subfolder", "cache_dir", "token", "local_files_only", "force_download")
)


def locate(
    name: Name,
    *,
    needs: Need,
    revision: str | None = None,
    subfolder: str = "",
    cache_dir: Name | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Return the directory of a checkpoint's files, downloading what is needed of a hub id.

    Args:
        name: A directory, a hub id, or ``demo``.
        needs: Weights with their config, the config, or a processor's files.
        revision: Commit, tag or branch of a hub id; a directory has none, and ignores it.
        subfolder: Where in it the files lie.
        cache_dir: Where downloads are kept, instead of the hub's usual cache.
        token: For private models; True is the one that ``hf auth login`` has stored.
        local_files_only: Whether to look into the cache only.
        force_download: Whether to download again what lies in the cache.

    Raises:
        UnreadableCheckpointError: They cannot be had.
    """
    wanted = os.fspath(name)
    return hub.resolve(
        wanted,
        None if hub.local_directory(wanted) else revision,
        subfolder=subfolder,
        needs=needs,
        download=Download(
            cache_dir=None if cache_dir is None else Path(cache_dir),
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        ),
    )


def load_config_dict(name: Name, **options: Any) -> dict[str, Any]:
    """Read a ``config.json`` of any dialect in the keys of transformers.

    Args:
        name: As `locate`, or the JSON file itself.
        options: Those of `locate`.

    Raises:
        UnreadableCheckpointError: It cannot be had.
        CheckpointError: It is broken. Of a checkpoint of the original dialect, only its weights
            tell the sizes.
    """
    file = Path(name)
    if not file.is_file():
        file = locate(name, needs="config", **options) / "config.json"
    config = read_json(file)
    if config.get("model_type") != original.MODEL_TYPE:
        return config
    if file == Path(name):
        raise CheckpointError(
            f"{file} is of the original dialect, whose sizes lie in the weights; give the directory"
        )
    return read_config(locate(name, needs="weights", **options))
