"""The validator itself: what it fills in, what it refuses, what it will not be talked into."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.schemas import SchemaError, Schemas, find_crds, load_crds, rules_of

RULE = {"rule": "self.low <= self.high", "message": "low exceeds high"}


def schemas_with(rule: dict[str, str]) -> Schemas:
    """Make a kind with a default, a list that is a map, and one CEL rule."""
    ports = {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "properties": {"name": {"type": "string"}}},
    }
    spec = {
        "type": "object",
        "properties": {
            "low": {"type": "integer", "default": 3},
            "high": {"type": "integer"},
            "size": {"x-kubernetes-int-or-string": True},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            "closed": {"type": "object"},
            "ports": ports,
        },
        "x-kubernetes-validations": [rule],
    }
    properties = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "spec": spec}
    return Schemas({("x.io/v1", "Range"): {"type": "object", "properties": properties}})


def a_range(**spec: Any) -> dict[str, Any]:
    """Make an object of that kind."""
    return {"apiVersion": "x.io/v1", "kind": "Range", "metadata": {"name": "a"}, "spec": spec}


def checks(schemas: Schemas, manifest: dict[str, Any]) -> set[str]:
    """Give which checks found something."""
    return {finding.check for finding in schemas.check([manifest])}


def test_what_is_right_passes() -> None:
    """Also a field of two types, and whatever lies below one that keeps unknown fields."""
    manifest = a_range(high=3, size="10%", free={"a": {"b": 1}}, ports=[{"name": "a"}])
    assert checks(schemas_with(RULE), manifest) == set()
    assert "low" not in manifest["spec"]  # the default was filled into a copy


@pytest.mark.parametrize(
    "spec",
    [
        {"high": 5, "hight": 5},
        {"high": "5"},
        {"high": 5, "size": 1.5},
        {"high": 5, "closed": {"anything": 1}},
        {"high": 5, "ports": [{"name": "a"}, {"name": "a"}]},
    ],
    ids=["unknown field", "wrong type", "neither int nor string", "pruned", "key twice"],
)
def test_what_the_schema_refuses_is_found(spec: dict[str, Any]) -> None:
    """As the API server does with strict validation, which `kubectl apply` asks for."""
    assert checks(schemas_with(RULE), a_range(**spec)) == {"schema"}


def test_rules_see_the_defaults() -> None:
    """``low`` is 3 although the manifest does not say so."""
    assert checks(schemas_with(RULE), a_range(high=2)) == {"cel"}


def test_a_rule_that_does_not_compile_stops_the_check() -> None:
    """It must not count as kept: then a CRD with a typing error would check nothing."""
    with pytest.raises(SchemaError, match="does not compile"):
        schemas_with({"rule": "self.low <=> self.high"}).check([a_range(high=5)])


def test_a_rule_that_cannot_be_evaluated_is_a_finding() -> None:
    """The API server refuses the object, too."""
    assert checks(schemas_with({"rule": "slef.low <= self.high"}), a_range(high=5)) == {"cel"}


def test_a_rule_about_changes_does_not_bind_a_new_object() -> None:
    """But it is compiled."""
    assert checks(schemas_with({"rule": "self == oldSelf"}), a_range(high=5)) == set()
    with pytest.raises(SchemaError):
        schemas_with({"rule": "self = oldSelf"}).check([a_range(high=5)])


def test_a_kind_without_a_schema_is_a_finding() -> None:
    """Nothing passes for want of a schema."""
    (finding,) = schemas_with(RULE).check([{**a_range(high=5), "kind": "Circle"}])
    assert finding.check == "schema"
    assert "no schema for Circle of x.io/v1" in finding.message


def test_metadata_is_checked_as_the_api_server_does() -> None:
    """A CRD says nothing of it."""
    manifest = a_range(high=5)
    manifest["metadata"]["lables"] = {"a": "b"}
    assert checks(schemas_with(RULE), manifest) == {"schema"}


def test_a_directory_without_crds_skips_with_a_clear_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And DSVL_REQUIRE_ALL=1 makes that a failure (tests/conftest.py)."""
    monkeypatch.setenv("KUBERAY_CRDS", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="KUBERAY_CRDS"):
        find_crds()


def test_the_crds_are_kuberays_and_a_broken_rule_of_theirs_is_found() -> None:
    """All kinds that this project may make; and a rule about a field that no manifest has."""
    crds = load_crds(find_crds())
    kinds = {kind for api_version, kind in crds if api_version == "ray.io/v1"}
    assert kinds == {"RayCluster", "RayJob", "RayCronJob"}
    assert sum(1 for schema in crds.values() for _ in rules_of(schema)) > 20
    spec = copy.deepcopy(crds["ray.io/v1", "RayJob"]["properties"]["spec"])
    manifest = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "a"}, "spec": {}}
    for rule in ("!(has(self.onSuccess)", "self.deletionRules.size() >"):
        broken = copy.deepcopy(spec)
        broken["properties"]["deletionStrategy"]["x-kubernetes-validations"][0]["rule"] = rule
        schema = {"type": "object", "properties": {"spec": broken}}
        with pytest.raises(SchemaError, match="does not compile"):
            Schemas({("ray.io/v1", "RayJob"): schema}).check([manifest])
