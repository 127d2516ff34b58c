"""The doctor finds what is wrong with this machine: each thing with what to do."""

from __future__ import annotations

import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from dsvl_pipeline.cli import main
from dsvl_pipeline.doctor import machine
from dsvl_pipeline.doctor.job import check_job
from tests.doctor.test_job import job_at
from tests.jobs import parse

GIB = 1 << 30
Usage = namedtuple("Usage", "total used free")


def card(folder: Path, monkeypatch: pytest.MonkeyPatch, row: str) -> None:
    """Put an ``nvidia-smi`` on the path that shows one GPU."""
    (folder / "nvidia-smi").write_text(f"#!{sys.executable}\nprint({row!r})\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def disk(monkeypatch: pytest.MonkeyPatch, total: float, free: float) -> None:
    """Let every disk be of this size."""
    usage = Usage(int(total), int(total - free), int(free))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def test_the_lock_is_the_projects() -> None:
    """What is compared with is what `make env` installs."""
    lock = Path(machine.__file__).with_name("locked.txt").resolve()
    assert lock.parts[-2:] == ("requirements", "base.txt")


def test_other_versions_than_the_locked_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning; of another Ray a problem: its nodes do not talk to each other."""
    installed = machine._installed
    monkeypatch.setattr(machine, "_installed", lambda n: "1.0" if n == "s3fs" else installed(n))
    found = machine.check_versions()
    assert found.grade == "warning"
    assert "s3fs 1.0 (locked: 20" in found.text
    monkeypatch.setattr(machine, "_installed", lambda n: None if n == "ray" else installed(n))
    found = machine.check_versions()
    assert found.grade == "problem"
    assert "ray missing (locked: 2." in found.text
    assert "pip install -r requirements/base.txt" in found.advice


def test_a_gpu_that_torch_cannot_use_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrong build of torch runs on the CPU and says nothing."""
    monkeypatch.setattr("torch.version.cuda", None)
    card(tmp_path, monkeypatch, "NVIDIA L4, 23034, 570.86.15, 8.9")
    found = machine.check_gpu()
    assert found.grade == "problem"
    assert found.text.startswith("1 x NVIDIA L4, 22 GiB, driver 570.86.15, sm 8.9; torch ")
    assert "was built without CUDA" in found.text
    assert "make env TORCH=gpu" in found.advice


def test_a_driver_that_is_too_old_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In torch's words, with the CUDA version that it wants."""
    monkeypatch.setattr("torch.version.cuda", "13.0")

    def fail() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old")

    monkeypatch.setattr("torch.cuda.init", fail)
    card(tmp_path, monkeypatch, "NVIDIA L4, 23034, 470.10, 8.9")
    found = machine.check_gpu()
    assert found.grade == "problem"
    assert "too old" in found.text
    assert "install a driver for CUDA 13.0" in found.advice


def test_no_gpu_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo needs none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.check_gpu().grade == "warning"


def test_a_gpu_that_is_too_small_or_too_old_for_the_job_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end in the engine's start, on every worker."""
    card(tmp_path, monkeypatch, "NVIDIA Tiny, 8, 570.86.15, 8.9")
    job = job_at(str(tmp_path), engine={"quantization": "fp8"})
    found = {one.about: one for one in check_job(parse(job))}
    assert found["GPU memory"].grade == found["fp8"].grade == "problem"
    assert "compute capability 8.9, fp8 needs 9.0" in found["fp8"].text


@pytest.mark.parametrize(
    ("shared", "grade"), [(64 << 20, "problem"), (4 * GIB, "warning"), (20 * GIB, "ok")]
)
def test_too_little_shared_memory_is_told(
    monkeypatch: pytest.MonkeyPatch, shared: int, grade: str
) -> None:
    """Docker's default is 64 MiB."""
    monkeypatch.setattr(machine, "memory_bytes", lambda: 64 * GIB)
    disk(monkeypatch, shared, shared)
    found = machine.check_shared_memory()
    assert found.grade == grade
    assert ("--shm-size=19661m" in found.advice) == (grade != "ok")


@pytest.mark.parametrize(("free_gib", "grade"), [(3, "problem"), (10, "warning"), (30, "ok")])
def test_too_little_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gib: int, grade: str
) -> None:
    """From 95 % on Ray spills nothing, and tasks fail."""
    disk(monkeypatch, 100 * GIB, free_gib * GIB)
    found = machine.check_disk(str(tmp_path / "not" / "yet"), "what is spilled", "RAY_TMPDIR")
    assert found.grade == grade
    assert ("RAY_TMPDIR" in found.advice) == (grade != "ok")


def test_in_a_pod_the_disk_that_ray_spills_to_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told by the command that KubeRay makes of `rayStartParams`."""
    params = {"object-spilling-directory": "/spill", "num-cpus": "0"}
    start = " ".join(["ray start --head", *(f"--{key}={params[key]}" for key in params)])
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", start)
    assert " at /spill, " in list(machine.check_machine())[-1].text


def test_the_command_ends_with_1_where_there_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each finding on a line, what to do below it, how many at the end."""
    disk(monkeypatch, 100 * GIB, 90 * GIB)
    assert main.main(["doctor"]) == 0
    assert "\nno problem\n" in capsys.readouterr().out
    disk(monkeypatch, 100 * GIB, 1 * GIB)
    assert main.main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "problem  disk            1.0 GiB free of 100 GiB" in shown
    assert "-> make room for 20 GiB, or choose another place: RAY_TMPDIR" in shown
    assert main.main(["doctor", str(tmp_path / "nowhere.yaml")]) == 2


@pytest.mark.parametrize(("value", "grade"), [(None, "ok"), ("0", "ok"), ("1", "warning")])
def test_who_may_reach_a_runs_own_ray_is_told(
    monkeypatch: pytest.MonkeyPatch, value: str | None, grade: str
) -> None:
    """A switch that was set for something else opens it to the network."""
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    if value is not None:
        monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", value)
    assert machine.check_reach().grade == grade
