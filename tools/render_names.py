"""Write ``dsvl_pipeline/__init__.pyi``: the public names, as type checkers want them.

Use:  python -m tools.render_names
after a change of the names in ``dsvl_pipeline/__init__.py``. A test compares.
"""

from __future__ import annotations

from pathlib import Path

import dsvl_pipeline

PAGE = Path(__file__).resolve().parents[1] / "dsvl_pipeline" / "__init__.pyi"
_HEAD = '''\
"""The public names, for type checkers: `__init__.py` loads each when it is first asked for."""

'''


def rendered() -> str:
    """Return the text of the file."""
    lines, renamed = [], []
    homes, others = (vars(dsvl_pipeline)[name] for name in ("_HOMES", "_OTHER_NAMES"))
    for name, home in sorted(homes.items(), key=lambda item: (item[1], item[0])):
        there = others.get(name, name)
        if there != name:  # no re-export, for type checkers
            renamed.append(f"{name} = {there}")
        what = there if there != name else f"{there} as {name}"
        line = f"from dsvl_pipeline.{home} import {what}"
        if len(line) > 100:
            line = line.replace(f" {what}", f" (\n    {what},\n)")
        lines.append(line)
    return _HEAD + "\n".join([*lines, "", *renamed, ""])


if __name__ == "__main__":
    PAGE.write_text(rendered(), encoding="utf-8")
