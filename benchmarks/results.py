"""Where figures go: one JSON file per measurement, with what is needed to repeat it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_ROOT = RESULTS.parent.parent
_PACKAGES = ("numpy", "pillow", "pyarrow", "ray", "torch", "transformers", "triton")


def write_results(
    name: str,
    figures: dict[str, Any],
    *,
    device: str | None = None,
    gpu: dict[str, Any] | None = None,
    path: Path | None = None,
    is_partial: bool = False,
) -> Path:
    """Write ``results/<date>-<machine>-<name>-<commit>.json`` and say so.

    Args:
        name: Of the benchmark.
        figures: What was measured; anything JSON can hold.
        device: Short name of the accelerator, e.g. ``h200``; the CPU's cores otherwise.
        gpu: What `gpu_versions` returns, where one was used.
        path: Another file or directory. A file is replaced as a whole, so that a long run may
            write what it has so far.
        is_partial: Say nothing: more will come.
    """
    now = datetime.now(UTC)
    machine = device or f"{os.cpu_count()}-core-{platform.machine().replace('_', '-')}"
    # A machine that gets a copy of the files without their history is told by its caller.
    commit = os.environ.get("COMMIT") or _commit()
    record = {
        "benchmark": name,
        "date": now.isoformat(timespec="seconds"),
        "commit": commit,
        "machine": machine,
        **({"gpu": gpu} if gpu else {}),
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in _PACKAGES},
        "figures": figures,
    }
    if path is None or path.is_dir():
        path = (path or RESULTS) / f"{now:%Y-%m-%d}-{machine}-{name}-{commit}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)
    if not is_partial:
        shown = path.relative_to(_ROOT) if path.is_relative_to(_ROOT) else path
        print(f"written: {shown}", flush=True)
    return path


@cache
def gpu_versions() -> dict[str, Any]:
    """Say which GPU this is and what drives it."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    except OSError:
        driver = []
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / (1 << 30), 1),
        "driver": driver[0] if driver else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(RESULTS.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    commit = _git("rev-parse", "--short", "HEAD")
    return commit + ("-modified" if _git("status", "--porcelain", "-uno") else "") or "unknown"
