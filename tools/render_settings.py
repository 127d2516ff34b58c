"""Write ``docs/job-file.md``: every setting of a job file, from the classes that check it.

Use:  python -m tools.render_settings
after a change of the sections in ``dsvl_pipeline/job/`` or ``dsvl_pipeline/records.py``. A test
compares the page with what this prints.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.job.inputs import FromEnvironment
from dsvl_pipeline.job.renamed import RENAMED
from dsvl_pipeline.job.schema import meanings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "job-file.md"
_HEAD = """\
# The job file

A job file is YAML. This page lists every setting with its type, default and meaning.

- A dot stands for a section: `input.document.dpi` is `dpi` in `document` in `input`.
- `--set input.document.dpi=200` on the command line wins over the file. It can be repeated, and
  `--set prompts.0.text=...` reaches into a list.
- A wrong key or value stops the run before anything starts. The message has file, line and key,
  what is allowed, and the nearest right key.
- In `input`, one text stands for a list of one.
- GiB and MiB are 2^30 and 2^20 bytes.

The files in [configs/](../configs) are examples with comments. [inputs.md](inputs.md) says what
`input` may name, and [running.md](running.md) what a run does.

`python -m tools.render_settings` makes this page from docstrings in `dsvl_pipeline/job/` and
`dsvl_pipeline/records.py`. Change those.
"""
_UNITS = {"_s": "seconds", "_gib": "GiB", "_bytes": "bytes", "_px": "pixels", "_tokens": "tokens"}
_NAMES = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`"}
_BOUNDS = (
    (Ge, "ge", "from {}"),
    (Gt, "gt", "above {}"),
    (Le, "le", "to {}"),
    (Lt, "lt", "below {}"),
)
_NO_DEFAULT = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of a section.

    Attributes:
        name: As users write it.
        annotation: Its type.
        bounds: Besides the type, as pydantic takes them.
        default: `_NO_DEFAULT` where it must be given.
        meaning: From the class's docstring.
    """

    name: str
    annotation: Any
    bounds: tuple[Any, ...]
    default: Any
    meaning: str

    @property
    def section(self) -> type | None:
        """Return the class of the section that this key is, if it is one."""
        found = [one for one in _parts(self.annotation) if _is_section(one)]
        return found[0] if found and found[0] is not FromEnvironment else None


def rendered() -> str:
    """Return the text of the page."""
    return "\n".join([_HEAD, *_section(JobConfig, "", None), *_old_names()])


def keys_of(section: Any, defaults: Any = None) -> Iterator[Key]:
    """Return a section's keys in their order.

    Args:
        section: A pydantic model or a dataclass.
        defaults: A section whose values are the defaults, where they are not the class's.
    """
    meanings = meanings_of(section)
    if issubclass(section, BaseModel):
        for name, field in section.model_fields.items():
            yield Key(
                name=field.alias or name,
                annotation=field.annotation,
                bounds=tuple(field.metadata),
                default=_NO_DEFAULT if field.default is PydanticUndefined else field.default,
                meaning=meanings.get(field.alias or name, ""),
            )
        return
    types = typing.get_type_hints(section)
    for one in dataclasses.fields(section):
        yield Key(
            name=one.name,
            annotation=types[one.name],
            bounds=(),
            default=one.default if defaults is None else getattr(defaults, one.name),
            meaning=meanings.get(one.name, ""),
        )


def sections(section: type) -> Iterator[type]:
    """Return a section and all within it."""
    yield section
    for key in keys_of(section):
        if key.section is not None:
            yield from sections(key.section)


def meanings_of(section: type) -> dict[str, str]:
    """Return what the ``Attributes:`` of a class's docstring say, by name."""
    return meanings(inspect.getdoc(section) or "")


def _section(section: type, prefix: str, defaults: Any) -> Iterator[str]:
    keys = list(keys_of(section, defaults))
    plain = [key for key in keys if key.section is None or _is_list(key)]
    title = f"`{prefix.rstrip('.')}`" if prefix else "The job"
    summary = (inspect.getdoc(section) or "").partition("\n")[0]
    yield f"## {title}\n\n{_markdown(summary)}\n"
    if plain:
        yield "| key | type | default | meaning |\n|---|---|---|---|"
        yield from (_row(key, prefix) for key in plain)
        yield ""
    for key in keys:
        if key.section is not None:
            inner = f"{prefix}{key.name}" + ("[]" if _is_list(key) else "")
            yield from _section(key.section, f"{inner}.", key.default)


def _old_names() -> Iterator[str]:
    yield "## Old names\n\nThese still read, with a note. Write the new name.\n"
    yield "| old | new |\n|---|---|"
    yield from (f"| `{name}.{old}` | `{name}.{new}` |" for (name, old), new in RENAMED.items())
    yield ""


def _row(key: Key, prefix: str) -> str:
    cells = [
        f"`{prefix}{key.name}`",
        _type(key),
        _default(key),
        _markdown(key.meaning),
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _type(key: Key) -> str:
    words = _words(key.annotation, key.bounds)
    unit = next((u for suffix, u in _UNITS.items() if key.name.endswith(suffix)), None)
    return words if unit is None else f"{words}; {unit}"


def _words(annotation: Any, bounds: tuple[Any, ...] = ()) -> str:
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _words(inner, tuple(x for one in more for x in (one, *getattr(one, "metadata", ()))))
    if get_origin(annotation) in (Union, UnionType):
        parts = [one for one in get_args(annotation) if one is not NoneType]
        return " or ".join(_words(one, bounds) for one in parts)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"list of {_plural(get_args(annotation)[0])}"
    if annotation is SecretStr:
        return "text"
    if annotation is FromEnvironment:
        return "`{env: NAME}`"
    if annotation in _NAMES:
        shown = [form.format(f"{value:,}") for value, form in _limits(bounds)]
        return " ".join([_NAMES[annotation], *shown])
    return "mapping, or the path of a JSON file"


def _plural(item: Any) -> str:
    return "sections" if _is_section(item) else f"{_NAMES[item]}s"


def _limits(bounds: tuple[Any, ...]) -> Iterator[tuple[Any, str]]:
    for kind, name, form in _BOUNDS:
        yield from ((getattr(one, name), form) for one in bounds if isinstance(one, kind))


def _default(key: Key) -> str:
    value = key.default
    if value is _NO_DEFAULT or value is dataclasses.MISSING:
        return "(must be given)"
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if key.name.endswith("_bytes"):
        return f"`{value}` ({value >> 20} MiB)"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _markdown(text: str) -> str:
    return text.replace("``", "`")


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)


def _is_section(item: Any) -> bool:
    return isinstance(item, type) and (
        issubclass(item, BaseModel) or dataclasses.is_dataclass(item)
    )


def _is_list(key: Key) -> bool:
    return get_origin(key.annotation) is tuple


def main() -> None:
    """Write the page."""
    PAGE.write_text(rendered(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
