"""Where a checkpoint lies: ``demo``, a directory, or a hub id with a revision. Torch-free."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from dsvl_pipeline.errors import CheckpointError, UnreadableCheckpointError
from dsvl_pipeline.store.uris import at_home, encoded_path, is_local, path_of

DEMO = "demo"
Need = Literal["weights", "config", "processor"]

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SMALL_FILES, _WEIGHTS = ("*.json", "*.jinja", "*.txt", "*.model"), "*.safetensors"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PATH_BEGINS = ("/", ".", "~")


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """How the hub is asked. The names are those of ``huggingface_hub.snapshot_download``."""

    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False


_USUAL = Download()


def resolve(
    name: str,
    revision: str | None = None,
    *,
    subfolder: str = "",
    needs: Need = "weights",
    download: Download = _USUAL,
) -> Path:
    """Return the local directory of a checkpoint, downloading it from the hub where needed.

    A directory of that name wins over a hub id. Without a revision a hub id means the newest
    commit; `weights_digest` then tells which weights it was.

    Args:
        name: ``demo``, a directory, or a hub id such as ``deepseek-community/deepseek-vl-7b-chat``.
        revision: Commit, tag or branch of a hub id.
        subfolder: Where in the directory or repository the checkpoint lies.
        needs: Of the checkpoint: weights with their config, the config, or files of a processor,
            which may lie without a config. Only weights download safetensors.
        download: How the hub is asked.

    Returns:
        A directory that holds ``config.json`` and all its safetensors, or what is needed of it.

    Raises:
        UnreadableCheckpointError: It, its config or its weights are not there, or no hub answers.
        CheckpointError: A revision is given for a directory, or the weights are broken.
    """
    directory = local_directory(name)
    if directory is not None and revision is not None:
        raise CheckpointError(
            f"the checkpoint {name!r} is a directory, which has no revision {revision!r}; leave "
            f"the revision out, or give a hub id"
        )
    if directory is None:
        directory = _download(name, revision, _patterns(subfolder, needs), download)
    directory /= subfolder
    if needs != "processor" and not (directory / "config.json").is_file():
        raise UnreadableCheckpointError(
            f"{directory} has no config.json; a checkpoint is a directory with config.json, the "
            f"tokenizer's files and safetensors"
        )
    if needs == "weights":
        weight_files(directory)
    return directory


def _patterns(subfolder: str, needs: Need) -> list[str]:
    kinds = (*_SMALL_FILES, _WEIGHTS) if needs == "weights" else _SMALL_FILES
    return [f"{subfolder}/{kind}" if subfolder else kind for kind in kinds]


def local_directory(name: str) -> Path | None:
    """Return the directory here that a checkpoint's name stands for; None for a hub id."""
    if name == DEMO:
        return Path(__file__).parent / "demo" / "checkpoint"
    if not name or not is_local(name):  # an empty name would be the current directory
        return None
    directory = Path(path_of(at_home(name)))
    return directory if directory.is_dir() else None


def is_path(name: str) -> bool:
    """Return whether a name is a directory here, or could be nothing else; ``demo`` is neither."""
    if name == DEMO or not is_local(name):
        return False
    is_certain = name.startswith(_PATH_BEGINS) or encoded_path(name) is not None
    return is_certain or local_directory(name) is not None


def weight_files(directory: Path) -> list[Path]:
    """Name the safetensors files that make up a checkpoint, in name order.

    Raises:
        UnreadableCheckpointError: There are none, or a shard is missing.
        CheckpointError: The index is broken.
    """
    single, index = directory / _SINGLE, directory / _INDEX
    if single.exists():
        return [single]
    if not index.exists():
        raise UnreadableCheckpointError(f"{directory} has no weights: {_what_is_there(directory)}")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [directory / Path(name).name for name in names]
    except (OSError, RecursionError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of shards: {error!r}") from error
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UnreadableCheckpointError(
            f"{directory}: {len(missing)} of {len(files)} shards are missing, first "
            f"'{missing[0]}'; the download was probably interrupted, fetch it again"
        )
    return files


def weights_digest(directory: Path) -> str:
    """Return the sha256 of all weights, as 64 hex digits.

    It covers the contents of the safetensors files in name order. A process reads a file again only
    after its size or time of modification changed.

    Raises:
        CheckpointError: There are no weights, or a shard is missing.
    """
    files = [file.resolve() for file in weight_files(directory)]
    return _digest(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


def processor_digest(directory: Path) -> str:
    """Return the sha256 of what turns words and pictures into inputs, as 64 hex digits.

    It covers names and contents of a checkpoint's small text files but the model's own settings:
    tokenizer, chat template, picture sizes and normalisation.
    """
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        is_text = path.suffix in (".json", ".jinja", ".model", ".txt")
        if is_text and path.name not in (_INDEX, "generation_config.json"):
            body = path.read_bytes()
            digest.update(f"{path.name}\0{len(body)}\0".encode() + body)
    return digest.hexdigest()


@lru_cache(maxsize=16)
def _digest(versions: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    for path, _, _ in versions:
        with path.open("rb", buffering=0) as file:
            while num_bytes := file.readinto(buffer):
                digest.update(buffer[:num_bytes])
    return digest.hexdigest()


def _download(name: str, revision: str | None, patterns: list[str], download: Download) -> Path:
    if name.startswith(_PATH_BEGINS) or not _HUB_ID.fullmatch(name):
        raise UnreadableCheckpointError(
            f"the checkpoint {name!r} does not exist: no such directory; it must be '{DEMO}', a "
            f"directory, or a hub id such as 'deepseek-community/deepseek-vl-7b-chat'"
        )
    if revision is None and Path(name).parent.is_dir():  # whoever means the hub can say so
        raise UnreadableCheckpointError(
            f"the checkpoint {name!r} does not exist: {str(Path(name).parent)!r} is a directory "
            f"here, but has no such one in it; if the hub is meant, give a revision"
        )
    # takes half a second, and most runs have a directory
    from huggingface_hub import errors, snapshot_download

    what = f"the checkpoint {name!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        # asks nobody for a pinned commit that lies in the cache, and uses the cache when offline
        found = snapshot_download(
            name, revision=revision, allow_patterns=patterns, **asdict(download)
        )
        return Path(found)
    except errors.RevisionNotFoundError as error:
        raise UnreadableCheckpointError(
            f"{what} was not found: the hub knows the model but not this revision; give a commit, "
            f"tag or branch of https://huggingface.co/{name}/commits"
        ) from error
    except errors.GatedRepoError as error:
        raise UnreadableCheckpointError(
            f"{what} may not be downloaded: it is gated; accept its terms at "
            f"https://huggingface.co/{name} and set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UnreadableCheckpointError(
            f"{what} was not found: there is no such directory, and no such model on the hub (a "
            f"private one needs HF_TOKEN)"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise UnreadableCheckpointError(
            f"{what} is not a directory here, and could not be downloaded: the hub cannot be "
            f"reached, and its files are not in the cache; check network and HF_HUB_OFFLINE, or "
            f"give the directory of a copy"
        ) from error
    except (OSError, ValueError) as error:
        raise UnreadableCheckpointError(f"{what} could not be downloaded: {error}") from error


def _what_is_there(directory: Path) -> str:
    pickles = sorted(path.name for path in directory.glob("*.bin"))
    if pickles:
        return (
            f"only '{pickles[0]}', a pickle, which can run code and is never opened; use a "
            f"revision with safetensors, or convert it"
        )
    return (
        f"neither {_SINGLE} nor {_INDEX} is there; on the hub, choose a revision with safetensors"
    )
