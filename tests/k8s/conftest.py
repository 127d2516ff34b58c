"""Fixtures: the schemas, read once, and rendered directories."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from tests.k8s.kustomize import K8S, render
from tests.k8s.policy import Rendering
from tests.k8s.schemas import Schemas, find_crds, load_crds, load_other_kinds

Compose = Callable[..., Rendering]


@pytest.fixture(scope="session")
def schemas() -> Schemas:
    """KubeRay's CRDs and the other operators' kinds."""
    return Schemas(load_crds(find_crds()) | load_other_kinds())


@pytest.fixture(scope="session")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """Render the base with components, each named by its directory below ``k8s/``."""

    @lru_cache
    def together(*components: str) -> Rendering:
        place = tmp_path_factory.mktemp("overlay")
        above = Path(os.path.relpath(K8S, place.resolve()))  # kustomize takes no absolute path
        lines = ["apiVersion: kustomize.config.k8s.io/v1beta1", "kind: Kustomization"]
        lines += ["resources:", f"  - {above / 'base'}"]
        if components:
            lines += ["components:", *(f"  - {above / name}" for name in components)]
        (place / "kustomization.yaml").write_text("\n".join(lines), encoding="utf-8")
        return Rendering.of(render(place))

    return together
