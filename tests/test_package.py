"""What is installed: the files of the wheel, the page of a package index, the types."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from dsvl_pipeline.cli.init import examples
from tools import render_names

ROOT = Path(__file__).resolve().parents[1]


def setup() -> ModuleType:
    """The module of setup.py; what it does when it is run it does not do here."""
    spec = importlib.util.spec_from_file_location("project_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_built_has_every_file_and_the_examples(tmp_path: Path) -> None:
    """Without the source tree, ``dsvl init`` writes the same files."""
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    command += ["build_py", "--build-lib", str(tmp_path / "lib")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    package = tmp_path / "lib" / "dsvl_pipeline"
    built = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "dsvl_pipeline"]
    shown = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = {name.partition("/")[2] for name in shown.splitlines() if (ROOT / name).exists()}
    assert built == wanted | {f"examples/{path.name}" for path in (ROOT / "configs").iterdir()}
    program = "from dsvl_pipeline.cli.init import examples; print(hash(str(examples())))"
    environment = os.environ | {"PYTHONPATH": str(package.parent), "PYTHONHASHSEED": "0"}
    hashed = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=folder,
            env=environment,
            capture_output=True,
            check=True,
        ).stdout
        for folder in (tmp_path, ROOT)
    ]
    assert hashed[0] == hashed[1] != b""
    assert len(examples()) > 20


def test_links_of_the_readme_lead_somewhere_on_an_index_too() -> None:
    """It shows the page without the files beside it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    url = "https://example.org/a/b"
    whole = re.findall(r"\]\(([^)\s]+)", setup().readme(text, url))
    assert len(whole) > 20
    assert [one for one in whole if not one.startswith(("https://", "#"))] == []
    for link in whole:
        if link.startswith(url):
            assert (ROOT / link.removeprefix(f"{url}/blob/HEAD/")).exists(), link
    unknown = setup().readme(text, "")
    assert [one for one in re.findall(r"\]\(([^)\s]+)", unknown) if "://" not in one] == []
    assert "docs/commands.md lists all commands" in unknown


def test_type_checkers_find_each_public_name_where_it_is_loaded_from() -> None:
    """The list of names is the other one's."""
    assert render_names.PAGE.read_text(encoding="utf-8") == render_names.rendered()
    assert (ROOT / "dsvl_pipeline" / "py.typed").is_file()
