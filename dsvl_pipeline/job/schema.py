"""The JSON schema of a job file, for editors that complete and check one while it is written."""

from __future__ import annotations

import inspect
import re
from typing import Any

from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.job.renamed import RENAMED

FILE = "job.schema.json"
"""Its name beside the example jobs, whose first lines point to it."""

_ONE_OR_LIST = ("manifest", "images", "documents", "carry", "allowed_roots", "allowed_prefixes")


def job_schema() -> dict[str, Any]:
    """Return the schema, in JSON Schema 2020-12.

    It accepts what `load_job` takes. `load_job` refuses more: what depends on several keys, or on
    files.
    """
    schema = JobConfig.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    for section in (schema, *definitions.values()):
        _explain(section)
    _take_one_for_a_list(definitions["InputConfig"]["properties"])
    # A mapping, or the path of a file with one.
    definitions["PromptConfig"]["properties"]["schema"]["anyOf"].insert(1, {"type": "string"})
    for (name, old), new in RENAMED.items():
        section = definitions[schema["properties"][name]["$ref"].rpartition("/")[2]]["properties"]
        section[old] = {**section[new], "deprecated": True, "description": f"Now called {new}."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A job of dsvl-pipeline",
        **{name: value for name, value in schema.items() if name != "title"},
    }


def meanings(docstring: str) -> dict[str, str]:
    """Return what the ``Attributes:`` of a class's docstring say, by name."""
    _, _, text = inspect.cleandoc(docstring).partition("\nAttributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if starts := re.fullmatch(r" {4}(\w+): (.*)", line):
            name, found[starts[1]] = starts[1], starts[2]
        elif line.startswith(" " * 8):
            found[name] += " " + line.strip()
        elif line.strip():
            break
    return found


def _explain(section: dict[str, Any]) -> None:
    """Give each key its sentence, and the section its first one."""
    text = section.get("description", "")
    told = meanings(text)
    section["description"] = text.partition("\n")[0]
    section.pop("title", None)
    for name, key in section.get("properties", {}).items():
        key.pop("title", None)
        key["description"] = told.get(name, "").replace("``", "`")


def _take_one_for_a_list(properties: dict[str, Any]) -> None:
    """Let one text stand for a list of one, as `InputConfig` does."""
    for name in _ONE_OR_LIST:
        key = properties[name]
        ways = key.pop("anyOf", None) or [{n: key.pop(n) for n in ("type", "items")}]
        key["anyOf"] = [{"type": "string"}, *ways]
