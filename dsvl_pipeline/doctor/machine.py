"""This machine: versions, GPU, shared memory, disk."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

from dsvl_pipeline.doctor.finding import Finding
from dsvl_pipeline.store.uris import local_path

GIB = 1 << 30
_SHARED_MEMORY = Path("/dev/shm")
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
# Ray takes so much of the memory for its object store, and stops spilling to a disk so full.
_OBJECT_STORE = 0.3
_FULL = 0.95
_SPILL_BYTES = 20 * GIB
_REACH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # see `cluster.own_cluster`
_QUERY = "name,memory.total,driver_version,compute_cap"


def check_machine() -> Iterator[Finding]:
    """Check what every job needs."""
    yield check_versions()
    yield check_gpu()
    yield check_shared_memory()
    yield check_reach()
    place, setting = os.environ.get("RAY_TMPDIR", "/tmp"), "RAY_TMPDIR"
    # In a pod the operator says here how it starts Ray.
    start = os.environ.get("KUBERAY_GEN_RAY_START_CMD", "")
    if told := re.search(r"--(object-spilling-directory)=(\S+)", start):
        setting, place = told.groups()
    yield check_disk(place, "Ray's files and what it spills", setting)


def check_versions() -> Finding:
    """Check that the versions are those of the lock, with which everything was tested."""
    text = resources.files(__package__).joinpath("locked.txt").read_text(encoding="utf-8")
    locked = [Requirement(line) for line in text.splitlines() if line and line[0] != "#"]
    wanted = {
        one.name: str(one.specifier).removeprefix("==")
        for one in locked
        if one.marker is None or one.marker.evaluate()
    }
    found = {name: _installed(name) for name in wanted}
    others = [
        f"{name} {found[name] or 'missing'} (locked: {wanted[name]})"
        for name in wanted
        if found[name] != wanted[name]
    ]
    if not others:
        return Finding(about="versions", grade="ok", text=f"all {len(wanted)} as locked")
    return Finding(
        about="versions",
        # Driver, workers and submitter must be of one Ray.
        grade="problem" if found["ray"] != wanted["ray"] else "warning",
        text=f"{len(others)} of {len(wanted)} are not as locked: {', '.join(others[:8])}"
        + (", ..." if len(others) > 8 else ""),
        advice="pip install -r requirements/base.txt (or make env); nothing else was tested",
    )


def check_gpu() -> Finding:
    """Check that there are GPUs, and that this torch can use them."""
    cards = gpus()
    if not cards:
        return Finding(
            about="GPU",
            grade="warning",
            text="nvidia-smi shows none: an engine here runs on the CPU, slowly",
            advice="fine for the demo and for submitting; else a machine with a GPU and its driver",
        )
    name, mib, driver, capability = cards[0]
    shown = f"{len(cards)} x {name}, {int(mib) / 1024:.0f} GiB, driver {driver}, sm {capability}"
    try:
        import torch
    except ImportError:
        advice = "make env TORCH=gpu, or pip install -r requirements/torch-gpu.txt"
        return Finding(about="GPU", grade="problem", text=f"{shown}; no torch", advice=advice)
    if torch.version.cuda is None:
        return Finding(
            about="GPU",
            grade="problem",
            text=f"{shown}; torch {torch.__version__} was built without CUDA",
            advice="make env TORCH=gpu, or pip install -r requirements/torch-gpu.txt",
        )
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        return Finding(
            about="GPU",
            grade="problem",
            text=f"{shown}; torch {torch.__version__} cannot use it: {error}",
            advice=f"install a driver for CUDA {torch.version.cuda}; in a container also check "
            "that it was given the GPU (nvidia-smi -L inside it)",
        )
    return Finding(about="GPU", grade="ok", text=f"{shown}; CUDA {torch.version.cuda}")


def gpus() -> list[list[str]]:
    """Return name, memory in MiB, driver's version and compute capability of each GPU."""
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in shown.stdout.splitlines()]
    return [row for row in rows if len(row) == 4 and row[1].isdecimal()]


def check_shared_memory() -> Finding:
    """Check that Ray's object store fits into /dev/shm."""
    memory = memory_bytes()
    try:
        size = shutil.disk_usage(_SHARED_MEMORY).total
    except OSError as error:
        size, why = 0, f" ({error})"
    else:
        why = ""
    shown = f"{as_size(size)} at {_SHARED_MEMORY}, beside {as_size(memory)} of memory{why}"
    if size >= 0.9 * _OBJECT_STORE * memory:
        return Finding(about="shared memory", grade="ok", text=shown)
    return Finding(
        about="shared memory",
        # Docker gives 64 MiB; a single batch of pictures is larger.
        grade="problem" if size < GIB else "warning",
        text=f"{shown}; Ray's object store wants {_OBJECT_STORE:.0%} of it, and goes to a disk",
        advice=f"docker run --shm-size={math.ceil(_OBJECT_STORE * memory / (1 << 20))}m; on "
        "Kubernetes KubeRay mounts it, as large as the memory limit",
    )


def check_reach() -> Finding:
    """Check that only this machine can reach a Ray that a run starts."""
    about, shown = "Ray's reach", "a run's own Ray listens on loopback only"
    told = os.environ.get(_REACH, "0")
    if told.lower() in ("0", "false"):
        return Finding(about=about, grade="ok", text=shown)
    return Finding(
        about=about,
        grade="warning",
        text=f"{_REACH} is {told}: a run's own Ray listens on every interface of this machine",
        advice="unset it, unless others are meant to reach it; its metrics ask for no token",
    )


def memory_bytes() -> int:
    """Return this machine's memory, or this container's limit, in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _MEMORY_LIMIT.read_text(encoding="utf-8").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total


def check_disk(place: str, purpose: str, setting: str, needed_bytes: int = _SPILL_BYTES) -> Finding:
    """Check that a disk has room.

    Args:
        place: A directory, which need not exist yet.
        purpose: What will be written there.
        setting: How to choose another place.
        needed_bytes: Less is a warning.
    """
    directory = Path(local_path(place))
    while not directory.exists():
        directory = directory.parent
    usage = shutil.disk_usage(directory)
    shown = f"{as_size(usage.free)} free of {as_size(usage.total)} at {place}, for {purpose}"
    is_full = usage.free < (1 - _FULL) * usage.total or usage.free < GIB
    if not is_full and usage.free >= needed_bytes:
        return Finding(about="disk", grade="ok", text=shown)
    return Finding(
        about="disk",
        grade="problem" if is_full else "warning",
        text=shown + (f"; Ray writes nothing to a disk that is {_FULL:.0%} full" * is_full),
        advice=f"make room for {as_size(needed_bytes)}, or choose another place: {setting}",
    )


def as_size(num_bytes: float) -> str:
    """Return a size as ``15 MiB``, ``6.9 GiB`` or ``139 GiB``."""
    if num_bytes < GIB:
        return f"{num_bytes / (1 << 20):.0f} MiB"
    return f"{num_bytes / GIB:.{0 if num_bytes >= 10 * GIB else 1}f} GiB"


def _installed(name: str) -> str | None:
    try:
        # What was built for a platform says so: 2.11.0+cpu.
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None
