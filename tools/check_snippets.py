"""Check the types of the Python on the pages, as strictly as those of the package.

Use:  python -m tools.check_snippets
after mypy, whose cache makes this a matter of seconds; ``make check`` runs it. It finds what a
user's own type checker would find: a public name without types, an argument that is none.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mypy import api

ROOT = Path(__file__).resolve().parents[1]


def snippets() -> Iterator[tuple[str, str]]:
    """Return each block of Python on the README and the pages in docs/: a name, and the text."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for number, text in enumerate(blocks, 1):
            yield f"{page.stem.replace('-', '_')}_{number}", text


def main() -> int:
    """Print what is wrong, and return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name, text in snippets():
            path = Path(folder, f"{name}.py")
            path.write_text(text, encoding="utf-8")
            files.append(str(path))
        settings = ["--config-file", str(ROOT / "pyproject.toml")]
        told, errors, code = api.run([*settings, *files])
    print(told + errors, end="")
    return code


if __name__ == "__main__":
    sys.exit(main())
