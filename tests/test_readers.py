"""One reader of strangers' names: `sources/fetch.py`. Read from the sources, as imports are.

A row, a page or an answer may hold any name. Whoever opens one elsewhere reads what the job does
not allow: other people's files, devices, gigabytes. So every place that can read by a name is
listed here, with whose name that is; a new one fails this test.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dsvl_pipeline"

READERS = {
    *("open", "read_bytes", "read_text", "readlink", "FileIO", "open_code"),
    *("urlopen", "urlretrieve", "ClientSession"),
    *("memory_map", "OSFile", "open_input_file", "open_input_stream", "FileSystem"),
    *("read_parquet", "ParquetFile", "read_csv", "read_json", "open_file"),
    *("fromfile", "memmap", "loadtxt", "genfromtxt", "PdfDocument", "copyfile", "copytree"),
}
PARQUET_READERS = {"read_table", "read_schema", "read_metadata"}
STORAGE_READERS = {"read", "read_with_info", "read_range", "read_many"}

ALLOWED = {
    # The one reader, and what is below it.
    "sources/fetch.py": "rows' names, within roots, prefixes and limits",
    "sources/web.py": "its part for web addresses",
    "store/": "what they are told to; whose names those are is the matter of their callers",
    # Names that are no strangers': of the table, the checkpoint, the machine, the user himself.
    "table/": "the table's own files, as its log calls them",
    "model/": "the checkpoint's files",
    "cluster/connect.py::_free_on_machine_gib": "the machine's own",
    "cluster/connect.py::_free_in_container_gib": "the machine's own",
    "hub.py": "the checkpoint's files",
    "processor/chat.py": "the checkpoint's files",
    "processor/tokens.py": "the checkpoint's files",
    "engine/schedule/structured.py::Grammars._load_tokenizer": "the checkpoint's files",
    "cli/init.py": "files of this package, and those that the user would lose",
    "api/locating.py": "the checkpoint's config",
    "api/generation/config.py": "the checkpoint's config",
    "api/pretrained_config.py": "a config that the caller names",
    "api/image_processor.py": "settings that the caller names",
    "api/pictures.py": "a picture that the caller names",
    "cli/generate.py": "pictures that the user names",
    "job/text_files.py": "what it is told to; whose names those are is the matter of its callers",
    "job/reading.py::load_job": "the job file",
    "job/prompts.py::PromptConfig._read_schema": "a schema that the job file names",
    "doctor/job.py::_found": "one file that the job's own patterns list",
    "sources/manifest_file.py": "manifests that the job's own patterns list",
    "sources/manifest.py": "what open_file gives",
    "sources/manifest_columns.py::_types_of": "the same",
    "sources/formats/": "a manifest's open file",
    "stages/work_files.py": "the run's own work files",
    "plan/spool.py": "the run's own spool",
    "sandbox/limits.py": "/proc",
    "cli/output.py": "/dev/null",
    "cluster/own_cluster.py::keep_token_private": "the token of the run's own Ray",
    "run/openlineage.py::_send": "the address that the environment names",
    "doctor/machine.py": "/sys, and a file of this package",
    "kuberay/": "manifests that the user or this package names",
    # Bytes, not names.
    "processor/decode.py": "a picture's bytes",
    "sources/page_tree.py": "a document's bytes",
    "sources/pdf_document.py": "a document's bytes",
    "sources/pdf_child.py::main": "a text layer of a document",
}


def readers(source: str) -> Iterator[tuple[str, str]]:
    """Find what can read by a name: the function around it, and what it is called."""

    def walk(node: ast.AST, inside: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = (*inside, node.name)
        place = ".".join(inside)
        match node:
            case ast.Attribute(value=ast.Name(id="objects"), attr=name) if name in STORAGE_READERS:
                yield place, f"objects.{name}"
            case ast.Attribute(value=ast.Name(id="TableWriter"), attr="open"):
                pass  # the table's own files, as above
            case ast.Attribute(value=ast.Name(id="pq"), attr=name) if name in PARQUET_READERS:
                yield place, f"pq.{name}"
            case ast.Attribute(attr=name) if name in READERS:
                yield place, f".{name}"
            case ast.Name(id=name, ctx=ast.Load()) if name in READERS:
                yield place, name
            case ast.ImportFrom(module="dsvl_pipeline.store.objects", names=names):
                yield from ((place, one.name) for one in names if one.name in STORAGE_READERS)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    yield from walk(ast.parse(source), ())


def is_allowed(place: str) -> bool:
    """Tell whether a ``module::function`` is listed, itself or with all around it."""
    return any(
        place == known
        or place.startswith(known if known.endswith("/") else (f"{known}::", f"{known}."))
        for known in ALLOWED
    )


def places() -> list[tuple[str, str]]:
    """Give every place of the package that reads by a name, as ``module::function``, and how."""
    return [
        (f"{path.relative_to(PACKAGE)}::{function}", name)
        for path in sorted(PACKAGE.rglob("*.py"))
        for function, name in readers(path.read_text(encoding="utf-8"))
    ]


def test_rows_names_are_read_in_one_place() -> None:
    """Nothing reads by a name that is not listed above."""
    wrong = [f"{place}: {name}" for place, name in places() if not is_allowed(place)]
    assert not wrong, (
        "these read by a name. If a row, a page or an answer may hold that name, give it to "
        "sources.fetch.Fetcher; else say in ALLOWED whose name it is:\n" + "\n".join(wrong)
    )


def test_the_list_names_nothing_that_is_gone() -> None:
    """An entry too many would let in what comes there later."""
    found = [place for place, _ in places()]
    unused = [
        known
        for known in ALLOWED
        if not any(place == known or place.startswith(known) for place in found)
    ]
    assert not unused


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(row):\n    return open(row['id']).read()", [("f", "open")]),
        ("class A:\n    def f(self, p):\n        return p.read_bytes()", [("A.f", ".read_bytes")]),
        (
            "from dsvl_pipeline.store import objects\nf = map(objects.read, uris)",
            [("", "objects.read")],
        ),
        ("from dsvl_pipeline.store.objects import read", [("", "read")]),
        ("def f(uri):\n    return Image.open(uri)", [("f", ".open")]),
        ("def f(uri):\n    return pq.read_table(uri)", [("f", "pq.read_table")]),
        ("def f(rows):\n    return fetcher.read(rows[0])", []),
        ("def f(uri):\n    objects.put(uri, b'')", []),
    ],
)
def test_a_second_reader_is_found(source: str, expected: list[tuple[str, str]]) -> None:
    """Also one that is only handed on; the one reader itself is no finding."""
    assert list(readers(source)) == expected
