"""The import directions of the design, read from the sources and not from what happens to load."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "dsvl_pipeline"

# Top to bottom. A package imports from the layers below its own, never from its own or from above.
LAYERS = (
    {"jobs", "__main__"},
    {"cli"},
    {"doctor"},
    {"run"},
    {"api", "export", "report"},
    {"cluster"},
    {"plan"},
    {"stages", "kuberay"},
    {"sources", "processor", "engine", "table"},
    {"model"},
    {"ops"},
    {"job"},
    {"hub"},
    {"store", "sandbox"},
    {"keys", "records", "codes", "extras", "wording"},
    {"errors"},
)
# What the layers allow, but the design does not: they stand beside the road that rows take.
NEVER = {"api": {"cluster", "plan"}, "export": {"cluster", "plan"}, "report": {"cluster", "plan"}}

# Who may import a heavy library. Inside functions too, which only delays the load.
MAY_IMPORT: dict[str, set[str]] = {
    "ray": {"cluster"},
    "torch": {"ops", "model", "engine", "api"},
    "triton": {"ops"},
    "safetensors": {"ops", "model"},
    "pypdfium2": {"sources"},
    "pikepdf": {"sources"},
    "tokenizers": {"processor", "engine"},
    "aiohttp": {"sources", "cluster"},
    "rich": {"cli"},
    "pydantic": {"job", "table"},
    "llguidance": {"job"},
    "kubernetes": {"kuberay"},
    "cronsim": {"kuberay"},
    "transformers": set(),
}
# Where an engine is started torch is loaded anyway; but the driver, CPU workers and other commands,
# which import the same modules, must not load it.
MAY_IMPORT_IN_FUNCTIONS: dict[str, set[str]] = {
    "torch": {"cluster", "cli", "doctor"},
    "transformers": {"api"},  # `register_with_transformers`, see below
}


@dataclass(frozen=True)
class Import:
    """One imported name: what unit (package or single module) and line imports it, and how."""

    unit: str
    place: str
    target: str
    is_in_function: bool


def unit_of(path: Path) -> str:
    """Give the package or single module a file belongs to: ``engine``, ``errors``, ``jobs``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == PACKAGE else parts[0]


def imports_of(path: Path) -> Iterator[Import]:
    """Find every import of a file, also those inside functions and type-checking blocks."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        place = f"{path.relative_to(ROOT)}:{node.lineno}"
        prefix = ""
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place}: a relative import; write it in full"
            prefix = f"{node.module}."
        for alias in node.names:
            yield Import(unit_of(path), place, prefix + alias.name, id(node) in inside)


def sources() -> list[Path]:
    """Give every module of the package and the jobs."""
    return sorted([*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "jobs").rglob("*.py")])


def own_unit(target: str) -> str | None:
    """Give the unit of this project that an import names; None for other libraries."""
    parts = target.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def layer_of(unit: str) -> int:
    """Give its place in `LAYERS`; 0 is the top."""
    return next(index for index, units in enumerate(LAYERS) if unit in units)


@cache
def all_imports() -> list[Import]:
    """Find every import of every module; when a test asks for it, as each test process collects."""
    return [found for path in sources() for found in imports_of(path)]


def inner_imports() -> list[Import]:
    """Give those of this project among themselves."""
    others = ("__init__", "demo")
    return [one for one in all_imports() if one.unit not in others and own_unit(one.target)]


def test_every_unit_has_a_layer() -> None:
    """A new package must say where it stands, or the tests below would not look at it."""
    units = {unit_of(path) for path in sources()} - {"__init__", "demo"}
    assert units <= set().union(*LAYERS)


def test_imports_point_one_way() -> None:
    """Right to left in the design: a layer knows those below it, and packages of one do not mix."""
    wrong = []
    for one in inner_imports():
        target = own_unit(one.target)
        assert target is not None
        if target == one.unit:
            continue
        is_above = layer_of(target) <= layer_of(one.unit)
        if is_above or target in NEVER.get(one.unit, ()):
            wrong.append(f"{one.place}: {one.unit} imports {one.target}")
    assert not wrong, "\n".join(wrong)


def test_no_modules_need_each_other() -> None:
    """A circle could be read from nowhere: each file of it needs the others first."""
    names = {module_of(path): path for path in sources()}
    needs = {
        name: {found for one in imports_of(path) for found in modules(one.target) if found in names}
        for name, path in names.items()
    }
    left = dict(needs)
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"circles among or above: {sorted(left)}"


def module_of(path: Path) -> str:
    """Give the dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def modules(target: str) -> tuple[str, str]:
    """Give what an imported name may be: a module, or something in one."""
    return target, target.rpartition(".")[0]


@pytest.mark.parametrize("library", sorted(MAY_IMPORT))
def test_heavy_libraries_have_one_home(library: str) -> None:
    """CPU workers must load neither torch nor transformers, and only cluster/ talks to Ray."""
    wrong = [
        f"{one.place}: {one.unit} imports {one.target}"
        for one in all_imports()
        if one.target.split(".")[0] == library
        and one.unit not in MAY_IMPORT[library]
        and not (one.is_in_function and one.unit in MAY_IMPORT_IN_FUNCTIONS.get(library, ()))
    ]
    assert not wrong, "\n".join(wrong)


def test_transformers_is_imported_where_its_registries_are_told_and_nowhere_else() -> None:
    """The classes are this project's own; a checkpoint is loaded without transformers."""
    found = {
        place.partition(":")[0]: one.is_in_function
        for one in all_imports()
        for place in [one.place]
        if one.target.split(".")[0] == "transformers"
    }
    assert found == {f"{PACKAGE}/api/auto.py": True}
    tree = ast.parse((ROOT / PACKAGE / "api" / "auto.py").read_text(encoding="utf-8"))
    (function,) = (
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and "import transformers" in ast.unparse(node)
    )
    assert function == "register_with_transformers"


def test_scheduling_is_torch_free() -> None:
    """It is tested on its own, as bookkeeping; and the fake engine must run where no torch is."""
    engine = ROOT / PACKAGE / "engine"
    others = [
        engine / f"{name}.py"
        for name in ("completions", "fake", "generate", "request_check", "sequence_factory")
    ]
    for path in [*(engine / "schedule").glob("*.py"), *others]:
        assert not [one.place for one in imports_of(path) if one.target.split(".")[0] == "torch"]


def test_private_parts_of_ray_are_used_in_one_file() -> None:
    """A new version of Ray may change them without a word: then it is this file that is mended."""
    private = re.compile(r"\bray\._\w+|\bray\.\w+\._\w+|dataset\._|executor\._|operator\._")
    found = {
        path.name for path in (ROOT / PACKAGE).rglob("*.py") if private.search(path.read_text())
    }
    assert found <= {"private_ray.py"}


def test_package_inits_import_nothing() -> None:
    """Importing one module of a package must not load its neighbours (torch, for one)."""
    for path in sorted((ROOT / PACKAGE).rglob("*/__init__.py")):
        assert not list(imports_of(path)), path


# What tells a scheme, a home directory, a working directory or a wildcard.
PLACE_WORDS = {
    *("urlsplit", "urlparse", "expanduser", "expandvars", "abspath", "isabs", "realpath"),
    *("getcwd", "cwd", "glob_translate", "fnmatch", "has_magic"),
}
SCHEME = re.compile(r"[a-z0-9+]*:/{2,3}|file:")
MAY_READ_PLACES = {
    "store/uris.py": "what a place is",
    "store/patterns.py": "which characters are wildcards",
    "store/named.py": "which of them are part of a name",
    "job/places.py": "which settings of a job are places",
    "store/redact.py": "URLs in texts, of which secrets are cut off",
    "store/s3.py": "what listings give, as URIs",
    "store/s3_client.py": "a web address: the endpoint",
    "run/openlineage.py": "a web address that the environment names",
    "cluster/connect.py": "the address of a Ray cluster",
}


def place_words(source: str) -> Iterator[int]:
    """Find the lines that decide by themselves what a place is."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Constant(value=str(text)) if SCHEME.fullmatch(text):
                yield node.lineno
            case ast.Attribute(attr=name) | ast.Name(id=name) if name in PLACE_WORDS:
                yield node.lineno
            case ast.Call(func=ast.Attribute(attr="absolute"), args=[]):  # of a Path
                yield node.lineno


def test_what_a_place_is_gets_decided_in_one_place() -> None:
    """Where two rules differ, a submitted job reads from elsewhere than a run."""
    found = {
        str(path.relative_to(ROOT / PACKAGE)): line
        for path in sorted((ROOT / PACKAGE).rglob("*.py"))
        for line in place_words(path.read_text(encoding="utf-8"))
    }
    wrong = [f"{name}:{line}" for name, line in found.items() if name not in MAY_READ_PLACES]
    assert not wrong, f"ask store.uris or job.places instead: {', '.join(wrong)}"
    assert MAY_READ_PLACES.keys() <= found.keys() | {"job/places.py"}


@pytest.mark.parametrize(
    "source",
    [
        "is_object = uri.startswith('s3://')",
        "local = '://' not in uri",
        "uri = f's3://{bucket}/{key}'",
        "path = Path(name).expanduser()",
        "path = os.path.abspath(name)",
        "path = Path(name).absolute()",
        "host = urlsplit(uri).netloc",
    ],
)
def test_a_second_decision_is_found(source: str) -> None:
    """However it is spelled; a message that gives an example is none."""
    assert list(place_words(source)) == [1]
    assert not list(place_words("raise ValueError('give s3://BUCKET/KEY or file:///PATH')"))
