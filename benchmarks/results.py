"""Where figures go: one JSON file per measurement, with what is needed to repeat it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("numpy", "pillow", "pyarrow", "ray", "torch", "transformers", "triton")


def write_results(name: str, figures: dict[str, Any], *, device: str | None = None) -> Path:
    """Write ``results/<date>-<machine>-<name>-<commit>.json`` and say so.

    Args:
        name: Of the benchmark.
        figures: What was measured; anything JSON can hold.
        device: Short name of the accelerator, e.g. ``h200``; the CPU's cores otherwise.
    """
    now = datetime.now(UTC)
    machine = device or f"{os.cpu_count()}-core-{platform.machine().replace('_', '-')}"
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    record = {
        "benchmark": name,
        "date": now.isoformat(timespec="seconds"),
        "commit": commit + ("-modified" if _git("status", "--porcelain", "-uno") else ""),
        "machine": machine,
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in _PACKAGES},
        "figures": figures,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y-%m-%d}-{machine}-{name}-{commit}.json"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path.relative_to(RESULTS.parent.parent)}")
    return path


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(RESULTS.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
