"""What the API server would say of a manifest, without one.

Kinds of a CRD are checked as with strict field validation: defaults are filled in, objects are
closed, lists that are maps have unique keys, and the CRD's CEL rules are evaluated. Native kinds
are checked against the published schemas of one Kubernetes version.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import celpy
import celpy.evaluation
import jsonschema
import kubernetes_validate
import pytest
import yaml

KUBERNETES = "1.34"
OTHER_KINDS = Path(__file__).with_name("other_kinds.yaml")
ROOT = Path(__file__).resolve().parents[2]
KUBERAY = "kuberay-v1.7.0"

Kind = tuple[str, str]  # ("ray.io/v1", "RayJob")
# A quarter of the time of the pure Python one; each CRD has a megabyte.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TRANSITION = re.compile(r"\boldSelf\b")


class SchemaError(Exception):
    """A schema itself is wrong, so that nothing it says can be trusted."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: which check found it, where, and what to do."""

    check: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"[{self.check}] {self.where}: {self.message}"


def name_of(manifest: Mapping[str, Any]) -> str:
    """Give the way a manifest is named in findings: ``RayJob/caption``."""
    metadata = manifest.get("metadata") or {}
    return f"{manifest.get('kind')}/{metadata.get('name', metadata.get('generateName'))}"


def find_crds() -> Path:
    """Give the directory of KubeRay's CRDs, or skip the test."""
    place = Path(os.environ.get("KUBERAY_CRDS") or ROOT.parent / "shared" / "schemas")
    for directory in (place, place / KUBERAY):
        if list(directory.glob("ray.io_*.yaml")):
            return directory
    pytest.skip(
        f"no CRDs of KubeRay in {place}: set KUBERAY_CRDS to a directory that holds "
        f"ray-operator/config/crd/bases of {KUBERAY}"
    )


def load_crds(directory: Path) -> dict[Kind, dict[str, Any]]:
    """Read each served version's schema from the CRDs of a directory."""
    schemas = {}
    for path in sorted(directory.glob("*.yaml")):
        for crd in yaml.load_all(path.read_text(encoding="utf-8"), _LOADER):
            group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
            for version in crd["spec"]["versions"]:
                if version["served"]:
                    schema = version["schema"]["openAPIV3Schema"]
                    schemas[f"{group}/{version['name']}", kind] = schema
    return schemas


def load_other_kinds() -> dict[Kind, dict[str, Any]]:
    """Read the schemas of other operators' kinds, which this project wrote for what it uses."""
    listed = yaml.load(OTHER_KINDS.read_text(encoding="utf-8"), _LOADER)
    return {
        (api_version, kind): s for api_version, kinds in listed.items() for kind, s in kinds.items()
    }


class Schemas:
    """Checks manifests against CRDs and the native schemas."""

    def __init__(self, crds: Mapping[Kind, dict[str, Any]]) -> None:
        self._crds = crds
        self._validators: dict[Kind, jsonschema.Draft202012Validator] = {}

    def check(self, manifests: Iterable[dict[str, Any]]) -> list[Finding]:
        """Give what is wrong with the manifests; they stay as they are.

        Raises:
            SchemaError: A CEL rule of a kind that is checked cannot be compiled.
        """
        return [finding for manifest in manifests for finding in self._check_one(manifest)]

    def _check_one(self, manifest: dict[str, Any]) -> Iterator[Finding]:
        kind = (str(manifest.get("apiVersion")), str(manifest.get("kind")))
        where = name_of(manifest)
        if kind not in self._crds:
            yield from _check_native(manifest, where)
            return
        schema = self._crds[kind]
        filled = copy.deepcopy(manifest)
        _fill_defaults(schema, filled)
        # the API server knows metadata itself; a CRD only says that there is some
        metadata = filled.pop("metadata", None) or {}
        named = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        yield from _check_native(named, where)
        if kind not in self._validators:
            for rule in rules_of(schema):
                compile_rule(rule)  # also those of fields that this manifest has not
            self._validators[kind] = jsonschema.Draft202012Validator(_closed(schema))
        errors = [
            Finding("schema", f"{where}: {_path(error.absolute_path)}", error.message[:300])
            for error in self._validators[kind].iter_errors(filled)
        ]
        errors += _check_lists(schema, filled, where)
        yield from errors
        if errors:
            return  # as the API server: rules may count on the types
        for path, rule, value in _rules(schema, filled, ""):
            yield from _check_rule(rule, value, f"{where}: {path or '/'}")


def _check_native(manifest: dict[str, Any], where: str) -> Iterator[Finding]:
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield Finding("schema", f"{where}: {_path(error.absolute_path)}", error.message[:300])
    except kubernetes_validate.SchemaNotFoundError:
        yield Finding(
            "schema",
            where,
            f"no schema for {manifest['kind']} of {manifest['apiVersion']} in Kubernetes "
            f"{KUBERNETES}, the CRDs or {OTHER_KINDS.name}; write one there, closed",
        )


def _path(parts: Iterable[str | int]) -> str:
    return "/".join(map(str, parts)) or "/"


def _fill_defaults(schema: Mapping[str, Any], value: Any) -> None:
    """Fill in what the API server does before it validates."""
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name not in value and "default" in child:
                value[name] = copy.deepcopy(child["default"])
            if name in value:
                _fill_defaults(child, value[name])
        others = schema.get("additionalProperties")
        if isinstance(others, dict):
            for name, child_value in value.items():
                if name not in schema.get("properties", {}):
                    _fill_defaults(others, child_value)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for child_value in value:
            _fill_defaults(schema["items"], child_value)


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a structural schema into a JSON schema that refuses fields it does not name."""
    out = dict(schema)
    if out.pop("x-kubernetes-int-or-string", False):
        out.pop("type", None)
        out["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if out.pop("nullable", False) and "type" in out:
        out["type"] = [out["type"], "null"]
    is_open = out.pop("x-kubernetes-preserve-unknown-fields", False)
    is_open = out.pop("x-kubernetes-embedded-resource", False) or is_open
    if "properties" in out:
        out["properties"] = {name: _closed(child) for name, child in out["properties"].items()}
    if out.get("type") == "object" and not is_open:
        out.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), dict):
            out[key] = _closed(out[key])
    return out


def _check_lists(schema: Mapping[str, Any], value: Any, where: str) -> Iterator[Finding]:
    """Lists that are maps or sets hold each key once, which no JSON schema can say."""
    if isinstance(value, dict):
        others = schema.get("additionalProperties")
        for name, child_value in value.items():
            child = schema.get("properties", {}).get(name, others)
            if isinstance(child, dict):
                yield from _check_lists(child, child_value, f"{where}/{name}")
    elif isinstance(value, list):
        keys: list[Any] = []
        if schema.get("x-kubernetes-list-type") == "map":
            names = schema["x-kubernetes-list-map-keys"]
            keys = [[one.get(name) for name in names] for one in value if isinstance(one, dict)]
        elif schema.get("x-kubernetes-list-type") == "set":
            keys = value
        for index, key in enumerate(keys):
            if key in keys[:index]:
                yield Finding("schema", f"{where}/{index}", f"{key} is in the list twice; keep one")
        for index, one in enumerate(value):
            yield from _check_lists(schema.get("items", {}), one, f"{where}/{index}")


def rules_of(schema: Mapping[str, Any]) -> Iterator[str]:
    """Give all CEL rules of a schema, those of absent fields too."""
    for rule in schema.get("x-kubernetes-validations", ()):
        yield rule["rule"]
    children = [*schema.get("properties", {}).values()]
    children += [schema.get("items"), schema.get("additionalProperties")]
    for child in children:
        if isinstance(child, Mapping):
            yield from rules_of(child)


def _rules(
    schema: Mapping[str, Any], value: Any, path: str
) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield path, rule, value
    if isinstance(value, dict):
        others = schema.get("additionalProperties")
        for name, child_value in value.items():
            child = schema.get("properties", {}).get(name, others)
            if isinstance(child, dict):
                yield from _rules(child, child_value, f"{path}/{name}".lstrip("/"))
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, one in enumerate(value):
            yield from _rules(schema["items"], one, f"{path}/{index}")


@lru_cache
def compile_rule(rule: str) -> Any:
    """Compile a CEL rule.

    Raises:
        SchemaError: It is not CEL.
    """
    environment = celpy.Environment()
    try:
        return environment.program(environment.compile(rule))
    except celpy.CELParseError as error:
        raise SchemaError(f"the CEL rule {rule!r} of a CRD does not compile: {error}") from error


def _check_rule(rule: Mapping[str, Any], value: Any, where: str) -> Iterator[Finding]:
    program = compile_rule(rule["rule"])
    if _TRANSITION.search(rule["rule"]):
        return  # says how a field may change; nothing changes when an object is created
    try:
        is_kept = program.evaluate({"self": celpy.json_to_cel(value)})
    except celpy.CELEvalError as error:  # the API server refuses the object as well
        yield Finding("cel", where, f"{rule['rule']} cannot be evaluated: {str(error)[:200]}")
        return
    if not is_kept:
        yield Finding("cel", where, rule.get("message") or f"breaks the rule {rule['rule']}")
