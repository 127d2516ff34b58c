"""Damaged files through the CPU stages, and what must hold of every one of them."""

from __future__ import annotations

import csv
import io
import pickle
import random
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dsvl_pipeline.codes import stage_of
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.sandbox.child import Child
from tests.fuzz import seeds
from tests.fuzz.mutate import mutate
from tests.jobs import fake_job

Kind = Literal["images", "documents", "manifests"]
_STAGES = Path(__file__).with_name("stages.py")
_FILES_PER_FOLDER = 8
_MAX_PAGES = 50
# A child has to be told apart from one that is busy: eight files at their own limits of time.
_HANG_S = 400.0
_LONGEST_MESSAGE = 4000


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of the files of one kind.

    Attributes:
        num_files: How many were tried.
        num_rows: How many rows they gave.
        codes: Rows by error code; ``""`` counts those without.
        num_refused: Manifests that were refused whole.
        num_deaths: How often a file killed the process, and its rows were prepared apart.
        problems: What did not hold: file, seed, and why.
    """

    num_files: int = 0
    num_rows: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    num_refused: int = 0
    num_deaths: int = 0
    problems: list[str] = field(default_factory=list)


class Campaign:
    """Makes damaged files and takes them through the stages; close it at the end.

    Args:
        keep: Where files that broke something are kept; nowhere without it.
    """

    def __init__(self, keep: Path | None = None) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="dsvl-fuzz-"))
        self._keep = keep
        source = {
            "images": str(self._root),
            "allowed_roots": [str(self._root)],
            "image_timeout_s": 20,
            "image_memory_gib": 1,
            "document": {"max_page_px": 256, "max_pages": _MAX_PAGES, "page_timeout_s": 10},
        }
        self._job = JobConfig.model_validate(fake_job(source, str(self._root / "out")))
        self._job_file = self._root / "job.json"
        self._job_file.write_text(self._job.model_dump_json())
        self._child: Child | None = None

    def close(self) -> None:
        """End the process and remove the files."""
        self._end()
        shutil.rmtree(self._root)

    def play(self, kind: Kind, first: int, count: int) -> Iterator[Outcome]:
        """Try files with one seed after the other; gives the same outcome again, more of it."""
        good = GOOD[kind]()
        outcome = Outcome()
        step = 1 if kind == "manifests" else _FILES_PER_FOLDER
        for start in range(first, first + count, step):
            folder = self._root / f"{kind}-{start}"
            folder.mkdir()
            made = {}
            for seed in range(start, min(start + step, first + count)):
                name, body = damaged(kind, seed, good)
                made[f"{seed}-{name}"] = body
                (folder / f"{seed}-{name}").write_bytes(body)
            problems = self._check(kind, folder, made, outcome)
            if problems and self._keep:
                shutil.copytree(folder, self._keep / folder.name, dirs_exist_ok=True)
            outcome.num_files += len(made)
            outcome.problems += [f"{kind} {start}: {problem}" for problem in problems]
            shutil.rmtree(folder)
            yield outcome

    def try_one(self, kind: Kind, name: str, body: bytes) -> Outcome:
        """Try one file as it is."""
        outcome = Outcome()
        folder = self._root / "one"
        folder.mkdir()
        (folder / name).write_bytes(body)
        outcome.problems += self._check(kind, folder, {name: body}, outcome)
        shutil.rmtree(folder)
        return outcome

    def _check(
        self, kind: Kind, folder: Path, made: dict[str, bytes], outcome: Outcome
    ) -> list[str]:
        if kind == "manifests":
            ((name, body),) = made.items()
            columns = {"id": "id", "image": "image", "prompt": "prompt"}
            source = {"manifest": str(folder / name), "columns": columns, "carry": ["price"]}
            result = self._take(source, outcome)
            return _manifest_problems(name, body, result, outcome)
        result = self._take({kind: str(folder)}, outcome)
        return _file_problems(set(made), result, outcome)

    def _take(self, source: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
        """Give what `stages.take` gives; what kills its process is tried apart, as Ray does."""
        for is_isolated in (False, True):
            if self._child is None:
                self._child = Child(_STAGES, str(self._job_file))
            command = {"source": source, "is_isolated": is_isolated}
            try:
                _, body = self._child.exchange(command, b"", _HANG_S)
            except TimeoutError:
                self._end()
                return {"problem": f"hangs: no answer after {_HANG_S:g} s"}
            except (EOFError, BrokenPipeError):
                how = self._end()
                outcome.num_deaths += 1
                if is_isolated:
                    return {"problem": f"ends the process, even apart: {how}"}
                continue
            result: dict[str, Any] = pickle.loads(body)
            if "traceback" in result:
                return {"problem": result["traceback"]}
            return result
        raise AssertionError

    def _end(self) -> str:
        child, self._child = self._child, None
        return child.end() if child is not None else ""


GOOD: dict[Kind, Callable[[], dict[str, bytes]]] = {
    "images": seeds.pictures,
    "documents": seeds.documents,
    "manifests": seeds.manifests,
}
_WORDS: dict[Kind, tuple[bytes, ...]] = {
    "images": (),
    "documents": seeds.PDF_WORDS,
    "manifests": seeds.TEXT_WORDS,
}


def damaged(kind: Kind, seed: int, good: dict[str, bytes]) -> tuple[str, bytes]:
    """Make the file of a seed: its name (that of the good one) and its bytes."""
    rng = random.Random(f"{kind} {seed}")
    name = rng.choice(sorted(good))
    return name, mutate(
        good[name], rng, others=[good[other] for other in sorted(good)], words=_WORDS[kind]
    )


def _message_problems(rows: list[tuple[str, str | None]]) -> Iterator[str]:
    for code, message in rows:
        if stage_of(code) == "other":
            yield f"the error code {code!r} is none that people can look up"
        if not message or "Traceback" in message or len(message) > _LONGEST_MESSAGE:
            yield f"{code} has no message for people: {message!r:.200}"


def _file_problems(names: set[str], result: dict[str, Any], outcome: Outcome) -> list[str]:
    if "problem" in result:
        return [result["problem"]]
    if "refused" in result:
        return [f"files were refused as a whole: {result['refused']}"]
    rows = result["rows"]
    outcome.num_rows += len(rows)
    outcome.codes.update(row["error_code"] or "" for row in rows)
    problems = []
    if len(rows) != result["listed"]:
        problems.append(f"{result['listed']} rows became {len(rows)}")
    seen = {Path(row["row_id"]).name for row in rows}
    if seen != names:
        problems.append(f"files without a row: {sorted(names - seen)}, unknown {seen - names}")
    pages: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        pages.setdefault(row["row_id"], []).append(row)
        if (row["error_code"] is None) != bool(row["num_ids"]):
            problems.append(f"neither answerable nor an error: {row}")
    for row_id, of_file in pages.items():
        found = [row["page_index"] for row in of_file]
        sizes = {row["num_pages"] for row in of_file}
        whole = list(range(len(found)))
        if found != [None] and (
            sorted(found, key=str) != sorted(whole, key=str) or len(sizes) != 1
        ):
            problems.append(f"{row_id} has pages {found} of {sizes}")
    failed = [(row["error_code"], row["error_message"]) for row in rows if row["error_code"]]
    return [*problems, *_message_problems(failed)]


def _manifest_problems(
    name: str, body: bytes, result: dict[str, Any], outcome: Outcome
) -> list[str]:
    if "problem" in result:
        return [result["problem"]]
    if "refused" in result:
        outcome.num_refused += 1
        message = result["refused"]
        is_told = name in message and "Traceback" not in message and len(message) < _LONGEST_MESSAGE
        return [] if is_told else [f"the refusal does not name the file: {message!r:.300}"]
    outcome.num_rows += len(result["planned"])
    codes = [code for code, _ in result["failed"]]
    outcome.codes.update(codes)
    outcome.codes[""] += len(result["planned"]) - len(codes)
    problems = list(_message_problems(result["failed"]))
    # Rows with a prompt of their own are asked the job's as well.
    ids = set(result["planned"])
    # Where reading went out of step (a quote that swallows lines) an error row says so.
    tells = any("up to line" in message or "quote" in message for _, message in result["failed"])
    missing = [row_id for row_id in _whole_rows(name, body) if row_id not in ids]
    # A quote too many can make lines a part of the text before them, which is no damage to see.
    missing = [row_id for row_id in missing if f"\n{row_id}," not in result["text"]]
    if missing and not tells:
        problems.append(f"rows that are whole in the file are lost: {missing[:5]}")
    return problems


def _whole_rows(name: str, body: bytes) -> list[str]:
    """Ids of the rows that the damage left alone: lines that still stand in the file as they were.

    Of Parquet none: its rows are counted against its footer by the reader itself.
    """
    if name.endswith(".gz"):
        try:
            body = zlib.decompress(body, wbits=31)
        except zlib.error:
            return []
    if "parquet" in name:
        return []
    good = seeds.manifests()["rows.csv" if ".csv" in name else "rows.jsonl"]
    if ".csv" in name:
        header, *records = csv.reader(io.StringIO(good.decode(), newline=""))
        if not body.startswith(b",".join(column.encode() for column in header) + b"\r\n"):
            return []
        # Of one line each: one that a quote spreads over two is not whole as a line.
        lines = [line for line in body.split(b"\r\n") if line.isascii() and b'"' not in line]
        whole = {row[0]: ",".join(row).encode() for row in records if len("".join(row)) < 60}
        return [row_id for row_id, line in whole.items() if line in lines]
    lines = body.split(b"\n")
    return [f"row-{n}" for n, line in enumerate(good.split(b"\n")[:-1]) if line in lines]
