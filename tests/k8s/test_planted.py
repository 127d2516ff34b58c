"""Mistakes that someone will make one day, each found by the check that is there for it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.conftest import Compose
from tests.k8s.kustomize import K8S, render
from tests.k8s.policy import CHECKS, Rendering, check_all
from tests.k8s.schemas import Schemas

CLUSTER = "spec/rayClusterSpec"
PLACES = {
    "job": "",
    "cluster": f"{CLUSTER}/",
    "head": f"{CLUSTER}/headGroupSpec/template/spec/",
    "worker": f"{CLUSTER}/workerGroupSpecs/0/template/spec/",
}
REMOVED: Any = object()


@dataclass(frozen=True)
class Planted:
    """A change of one field, the check that must find it, and words of its finding."""

    check: str
    kind: str
    name: str
    path: str
    value: Any
    words: str

    def into(self, manifests: list[dict[str, Any]]) -> dict[str, Any]:
        """Change the one manifest of that kind whose name begins so, and give it back."""
        (manifest,) = [
            one
            for one in manifests
            if one["kind"] == self.kind and one["metadata"]["name"].startswith(self.name)
        ]
        # as in a JSON pointer, ~1 is a slash in a key
        *parents, last = [key.replace("~1", "/") for key in self.path.split("/")]
        place: Any = manifest
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
        if isinstance(place, list) and last == "-":
            place.append(self.value)
            return manifest
        index: Any = int(last) if isinstance(place, list) else last
        if self.value is REMOVED:
            del place[index]
        else:
            place[index] = self.value
        return manifest


def read_planted() -> list[Planted]:
    """Read the table beside this file."""
    found = []
    table = yaml.safe_load(Path(__file__).with_name("planted.yaml").read_text(encoding="utf-8"))
    for check, rows in table.items():
        for row in rows:
            place, path = next(iter(row.items()))
            kind, name = "RayJob", "caption-products"
            if place not in PLACES:
                kind, name = place.split("/")
            path = PLACES.get(place, "") + path
            found.append(Planted(check, kind, name, path, row.get("to", REMOVED), row["says"]))
    return found


PLANTED = read_planted()


@pytest.fixture(scope="module")
def complete(compose: Compose, schemas: Schemas) -> Rendering:
    """Everything that has a check, and nothing wrong with it."""
    rendering = compose(*(f"components/{name}" for name in ("model-cache", "spot", "raycronjob")))
    queued = compose("components/kueue").manifests
    scheduled = [m for m in render(K8S / "schedule") if m not in rendering.manifests]
    others = [m for m in queued if m["apiVersion"].startswith("kueue.")] + scheduled
    rendering = Rendering.of(rendering.manifests + others)
    assert [*schemas.check(rendering.manifests), *check_all(rendering)] == []
    return rendering


@pytest.mark.parametrize(
    "planted",
    PLANTED,
    ids=lambda one: f"{one.check}-{one.kind}-{one.path.rpartition('/')[2]}",
)
def test_a_planted_mistake_is_found(
    planted: Planted, complete: Rendering, schemas: Schemas
) -> None:
    """By the check of that name, and in words that lead to it."""
    manifests = copy.deepcopy(complete.manifests)
    changed = planted.into(manifests)
    if planted.check in CHECKS:
        problems = CHECKS[planted.check](Rendering(manifests, complete.later))
        found = [f"{where}: {what}" for where, what in problems]
    else:
        found = [str(one) for one in schemas.check([changed]) if one.check == planted.check]
    assert any(planted.words in one for one in found), found


def test_every_check_has_a_planted_mistake() -> None:
    """A check that never finds anything might be one that cannot."""
    assert {one.check for one in PLANTED} == {*CHECKS, "schema", "cel"}
