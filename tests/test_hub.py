"""Where checkpoints come from. The hub itself is played by a directory."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from dsvl_pipeline import hub
from dsvl_pipeline.errors import CheckpointError


def write(directory: Path, *weights: str) -> Path:
    """A directory that looks like a checkpoint."""
    directory.mkdir(exist_ok=True)
    for name in ("config.json", *weights):
        (directory / name).write_text("{}")
    return directory


def test_demo_is_shipped() -> None:
    """``demo`` needs no network: it is package data."""
    directory = hub.resolve("demo")
    assert directory.name == "checkpoint"
    assert (directory / "config.json").is_file()


def test_a_directory_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute, relative and in the home directory."""
    write(tmp_path / "model", "model.safetensors")
    assert hub.resolve(str(tmp_path / "model")) == tmp_path / "model"
    assert hub.resolve((tmp_path / "model").as_uri()) == tmp_path / "model"
    monkeypatch.chdir(tmp_path)
    assert hub.resolve("model").samefile(tmp_path / "model")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.resolve("~/model") == tmp_path / "model"


def test_a_name_below_a_directory_is_no_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt path must not end in a message about the network."""
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(CheckpointError, match=r"'models' is a directory here.* give a revision"):
        hub.resolve("models/nope")


def test_a_hub_id_is_downloaded_at_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safetensors and JSON, never a pickle."""
    asked: dict[str, Any] = {}

    def download(
        name: str, *, revision: str | None, allow_patterns: list[str], **options: Any
    ) -> str:
        asked.update(name=name, revision=revision, patterns=allow_patterns, options=options)
        return str(write(tmp_path / "snapshot", "model.safetensors"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.resolve("some/model", "abc") == tmp_path / "snapshot"
    assert (asked["name"], asked["revision"]) == ("some/model", "abc")
    assert "*.safetensors" in asked["patterns"]
    assert not any("bin" in pattern or pattern == "*" for pattern in asked["patterns"])


def test_only_what_is_needed_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configs and processors are small; weights are 15 GB."""
    asked: dict[str, Any] = {}

    def download(_: str, **options: Any) -> str:
        asked.update(options)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    (tmp_path / "sub").mkdir()
    how = hub.Download(token="hf_x", cache_dir=tmp_path, local_files_only=True)
    found = hub.resolve("some/model", subfolder="sub", needs="processor", download=how)
    assert found == tmp_path / "sub"
    patterns = ["sub/*.json", "sub/*.jinja", "sub/*.txt", "sub/*.model"]
    options = {"token": "hf_x", "cache_dir": tmp_path, "local_files_only": True}
    assert asked == {
        "revision": None,
        "allow_patterns": patterns,
        "force_download": False,
        **options,
    }
    with pytest.raises(OSError, match=r"has no config\.json"):
        hub.resolve("some/model", needs="config")
    assert hub.resolve(str(write(tmp_path)), needs="config") == tmp_path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            errors.RevisionNotFoundError,
            r"'some/model' at revision 'v9' was not found: the hub know",
        ),
        (errors.GatedRepoError, "it is gated; accept its terms"),
        (errors.RepositoryNotFoundError, "no such directory, and no such model on the hub"),
        (errors.LocalEntryNotFoundError, "the hub cannot be reached, and its files are not in"),
        (OSError, "could not be downloaded: no space left"),
    ],
)
def test_why_a_download_failed_is_said(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception], message: str
) -> None:
    """Each has another remedy, and the hub's own texts are a page long."""

    def download(*_: Any, **__: Any) -> str:
        raise kind.__new__(kind, "no space left")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CheckpointError, match=message):
        hub.resolve("some/model", "v9")


def test_an_unreachable_hub_is_said(tmp_path: Path) -> None:
    """The real library, told to be offline, in a process of its own because it reads that once."""
    code = "from dsvl_pipeline import hub; hub.resolve('some/model')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "CheckpointError: the checkpoint 'some/model' is not a directory here" in result.stderr


@pytest.mark.parametrize("name", ["/no/such/place", "nonsense", "a/b/c", "", "./nope", "~/nope"])
def test_what_is_neither_path_nor_id_is_refused(name: str) -> None:
    """Without asking the network."""
    with pytest.raises(
        CheckpointError, match="not exist: no such directory; it must be 'demo', a dir"
    ):
        hub.resolve(name)


def test_a_revision_of_a_directory_is_refused(tmp_path: Path) -> None:
    """It would stand in every output row's lineage and mean nothing."""
    write(tmp_path, "model.safetensors")
    with pytest.raises(CheckpointError, match="is a directory, which has no revision 'abc'"):
        hub.resolve(str(tmp_path), "abc")


def test_weights_must_be_safetensors(tmp_path: Path) -> None:
    """A pickle can run code; nothing here opens one."""
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        hub.resolve(str(tmp_path))
    write(tmp_path)
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor model\.safetensors"):
        hub.resolve(str(tmp_path))
    write(tmp_path, "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"only 'pytorch_model\.bin', a pickle"):
        hub.resolve(str(tmp_path))


def test_missing_shards_are_counted(tmp_path: Path) -> None:
    """Before a GPU is asked for."""
    write(tmp_path, "a.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "c.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"2 of 3 shards are missing, first 'b\.safetensors'"):
        hub.resolve(str(tmp_path))
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="is not an index of shards"):
        hub.resolve(str(tmp_path))


def test_the_digest_is_that_of_the_weights(tmp_path: Path) -> None:
    """Of all shards in name order, of nothing else; it changes with them and only with them."""
    write(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"second")
    (tmp_path / "a.safetensors").write_bytes(b"first")
    index = {"weight_map": {"x": "b.safetensors", "y": "a.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    expected = hashlib.sha256(b"firstsecond").hexdigest()
    assert hub.weights_digest(tmp_path) == expected
    (tmp_path / "config.json").write_text('{"changed": true}')
    assert hub.weights_digest(tmp_path) == expected
    (tmp_path / "a.safetensors").write_bytes(b"other")
    os.utime(tmp_path / "a.safetensors", (1, 1))  # clocks of file systems are coarse
    assert hub.weights_digest(tmp_path) == hashlib.sha256(b"othersecond").hexdigest()


def test_weights_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """14 GB at every question would be a minute each."""
    write(tmp_path, "model.safetensors")
    expected = hub.weights_digest(tmp_path)
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("read again"))
    assert hub.weights_digest(tmp_path) == expected
