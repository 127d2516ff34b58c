"""A job file: one YAML file, checked before anything starts.

``load_job`` reads it; every mistake is reported with file, line, key, value, what is allowed and
the nearest right key, all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    ValidationError,
)

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.config import JobConfig, grammar_problems
from dsvl_pipeline.job.mistakes import MOST_SHOWN, explain_all, is_secret, place_of
from dsvl_pipeline.job.renamed import replace_old_names
from dsvl_pipeline.job.section import KeyPath
from dsvl_pipeline.job.text_files import read_text


def as_job(job: JobConfig | Mapping[str, Any] | str | PathLike[str]) -> JobConfig:
    """Return a checked job, however it is given.

    Args:
        job: A job, the path of its file, or what such a file holds; of that, nothing is changed.

    Raises:
        ConfigError: The file is missing, or the job is wrong; the message lists every mistake.
    """
    match job:
        case JobConfig():
            return job
        case Mapping():
            return _checked(Path("the job"), _plain(job), {})
        case _:
            return load_job(Path(job))


def _plain(value: Any) -> Any:
    """Copy what Python programs write for what YAML holds: tuples, paths."""
    match value:
        case Mapping():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case PathLike():
            return fspath(value)
    return value


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> JobConfig:
    """Read and check a job file.

    Args:
        path: The YAML file.
        overrides: ``a.b=value`` settings that win over the file; values are YAML.

    Raises:
        ConfigError: The file is missing or wrong; the message lists every mistake.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise ConfigError(
            f"job file {path} does not exist; configs/ holds examples to copy"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"job file {path} cannot be read: {error}") from error
    values, lines = _parse(path, text)
    for override in overrides:
        lines[_apply(values, override)] = 0
    return _checked(path, values, lines)


def _checked(path: Path, values: dict[str, Any], lines: dict[KeyPath, int]) -> JobConfig:
    """Check what a job holds; for messages, where it was read, and the line of each key."""
    replace_old_names(path, values, lines)
    if holders := [key for key, text in _texts(values, ()) if "\0" in text]:
        name = ".".join(map(str, holders[0]))
        raise ConfigError(
            f"{place_of(path, lines, holders[0])}: {name}: holds a NUL character; remove it"
        )
    try:
        job = JobConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(explain_all(path, lines, error))) from None
    problems = [
        f"{place_of(path, lines, key)}: {'.'.join(map(str, key))}: {problem}"
        for key, problem in grammar_problems(job)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return job


def _texts(value: Any, at: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(inner, (*at, key))


class _StrictLoader(yaml.SafeLoader):
    """YAML without aliases: a small file must not expand to a large one."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            mark = event.start_mark
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=mark)
        return super().compose_node(parent, index)


# A date or number that YAML allows and Python does not; a tag that does not fit its value.
_UNREADABLE = (ValueError, KeyError, AttributeError, TypeError)


def _parse(path: Path, text: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    try:
        loader = _StrictLoader(text)
        node = loader.get_single_node()
        lines: dict[KeyPath, int] = {}
        _collect_lines(path, node, (), lines)
        values = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = error.problem
        if is_secret(_around(text, line)):  # the problem quotes the value
            problem = "the value cannot be read; put it in quotes"
        raise ConfigError(f"{path}:{line}: not valid YAML: {problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_in_a_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply; a job file has few levels") from None
    except _UNREADABLE as error:
        detail = "put it in quotes" if is_secret(text) else _in_a_line(error)
        raise ConfigError(f"{path}: a value cannot be read: {detail}") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: holds {type(values).__name__}, expected keys such as input, prompts, model, "
            "output; configs/ holds examples to copy"
        )
    return values, lines


def _around(text: str, line: int) -> str:
    """Return a line of YAML, the one before it, and the keys that it is indented under."""
    lines = text.splitlines()[:line]
    found, depth = lines[-1:], len(text)
    above = [each for each in lines if each.strip() and not each.lstrip().startswith("#")]
    found += above[-2:]
    for each in reversed(above):
        indentation = len(each) - len(each.lstrip(" -"))
        if indentation < depth:
            depth = indentation
            found.append(each)
    return "\n".join(found)


def _collect_lines(
    path: Path, node: yaml.Node | None, at: KeyPath, into: dict[KeyPath, int]
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*at, str(key.value))
            line = key.start_mark.line + 1
            if inner in into:
                name = ".".join(map(str, inner))
                raise ConfigError(
                    f"{path}:{line}: {name} is given twice (first in line {into[inner]}); keep one"
                )
            into[inner] = line
            _collect_lines(path, value, inner, into)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            into[*at, index] = value.start_mark.line + 1
            _collect_lines(path, value, (*at, index), into)


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _apply(values: dict[str, Any], override: str) -> KeyPath:
    """Write one ``--set`` into the values, and return the way to its key."""
    name, equals, text = override.partition("=")
    hides = is_secret(override)
    if hides:
        override = f"{name}=[hidden]"
    override = override if len(override) <= MOST_SHOWN else f"{override[:MOST_SHOWN]}..."
    if not equals or not name:
        raise ConfigError(f"--set {override}: expected KEY=VALUE, e.g. generation.temperature=0.2")
    try:
        value = yaml.load(text, _StrictLoader)  # a SafeLoader
    except RecursionError:
        raise ConfigError(f"--set {override}: the value is nested too deeply") from None
    except (yaml.YAMLError, *_UNREADABLE) as error:
        detail = "put it in quotes" if hides else _in_a_line(error)
        message = f"the value is not valid YAML: {detail}"
        raise ConfigError(f"--set {override}: {message}") from None
    where: list[str | int] = []
    target: Any = values
    *parents, last = name.split(".")
    for part in parents:
        key = _key_in(target, part, where, override)
        if isinstance(target, dict):
            target.setdefault(key, {})
        where.append(key)
        target = target[key]
    key = _key_in(target, last, where, override)
    target[key] = value
    return (*where, key)


def _key_in(target: Any, part: str, where: list[str | int], override: str) -> str | int:
    """Read one part of a ``--set`` key: a name in a section, a number from 0 in a list."""
    if isinstance(target, dict):
        return part
    place = ".".join(map(str, where))
    if not isinstance(target, list):
        raise ConfigError(f"--set {override}: {place} is not a section")
    if not part.isdecimal() or int(part) >= len(target):
        raise ConfigError(
            f"--set {override}: {place} is a list of {len(target)}; use a number from 0 to "
            f"{len(target) - 1}, or set the whole list"
        )
    return int(part)
