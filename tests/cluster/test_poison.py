"""Rows that kill the process that works on them: each ends as an error row, and alone."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dsvl_pipeline.cluster.gate import SharedLock
from dsvl_pipeline.table.reader import read_table
from dsvl_pipeline.table.verify import verify
from tests.jobs import fake_job, write_manifest

# Python imports a module of this name at its start: here it plants decoders that kill or hang.
SITE = """
import os
import PIL.Image
opened = PIL.Image.open
def deadly(file, *rest, **options):
    data = file.getvalue()
    if data.startswith(b"KILL"):
        os.kill(os.getpid(), 11)
    while data.startswith(b"HANG"):
        pass
    return opened(file, *rest, **options)
PIL.Image.open = deadly
"""
DRIVER = """
import json, sys
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.run.run import run_job
from tests.quick_ray import quick_ray
with quick_ray():
    run_job(JobConfig.model_validate(json.loads(sys.argv[1])))
"""


@pytest.mark.ray
def test_rows_that_kill_are_found_and_everything_else_finishes(tmp_path: Path) -> None:
    """Two files and one request kill whatever works on them, one file never ends."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    source = write_manifest(str(tmp_path / "in"), 40)
    manifest = tmp_path / "in" / "manifest.jsonl"
    bad = {"kill1": b"KILL 1", "kill2": b"KILL 2", "hang": b"HANG"}
    lines = manifest.read_text().splitlines()
    for place, (name, data) in enumerate(bad.items()):
        (tmp_path / "in" / f"{name}.jpg").write_bytes(data)
        line = json.dumps({"id": name, "image": f"{name}.jpg", "group": "bad"})
        lines.insert(7 * place, line)
    manifest.write_text("\n".join(lines))
    source["image_timeout_s"] = 8
    # Of the 40 requests one kills its process at every attempt.
    job = fake_job(source, str(tmp_path / "out"), crash_rate=0.02, seed=0)
    path = os.pathsep.join([str(tmp_path / "site"), os.getcwd()])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(job)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    rows = read_table(str(tmp_path / "out")).to_pylist()
    assert verify(str(tmp_path / "out")).problems == ()
    by_code: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        by_code.setdefault(row["error_code"], []).append(row)
    assert len(rows) == 43
    assert {row["row_id"] for row in by_code["image_crashed"]} == {"kill1", "kill2"}
    assert [row["row_id"] for row in by_code["image_timeout"]] == ["hang"]
    assert "signal 11" in by_code["image_crashed"][0]["error_message"]
    (deadly,) = by_code["engine_crashed"]
    assert "died 4 times" in deadly["error_message"]
    assert deadly["attempt"] == 5
    assert len(by_code[None]) == 39
    assert {row["status"] for row in by_code[None]} <= {"ok", "degraded"}


def test_suspects_are_alone_and_come_first() -> None:
    """Who waits to be alone is not kept waiting by those who keep coming."""
    inside: list[str] = []
    seen: list[tuple[str, ...]] = []

    async def guest(lock: SharedLock, name: str) -> None:
        context = lock.exclusive() if name.startswith("alone") else lock.shared()
        async with context:
            inside.append(name)
            seen.append(tuple(inside))
            await asyncio.sleep(0.01)
            inside.remove(name)

    async def main() -> None:
        lock = SharedLock()
        names = ["a", "b", "alone1", "c", "alone2", "d"]
        await asyncio.wait_for(asyncio.gather(*(guest(lock, name) for name in names)), 5)

    asyncio.run(main())
    assert len(seen) == 6
    assert all(len(who) == 1 for who in seen if who[-1].startswith("alone"))
    assert seen[:4] == [("a",), ("a", "b"), ("alone1",), ("alone2",)]


def test_limits_end_code_that_hangs_and_leave_nothing_behind() -> None:
    """Memory first: an allocation beyond it fails; then time, which ends the process."""
    code = """
import resource, time
from dsvl_pipeline.sandbox.limits import limited
before = resource.getrlimit(resource.RLIMIT_AS)
with limited(30, 100 << 20):
    try:
        bytes(200 << 20)
        print("no limit")
    except MemoryError:
        print("no memory")
assert resource.getrlimit(resource.RLIMIT_AS) == before
with limited(0.2, 100 << 20):
    pass
time.sleep(0.4)
print("alive", flush=True)
with limited(0.2, 100 << 20):
    while True:
        pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900)
    assert (done.returncode, done.stdout) == (-14, "no memory\nalive\n"), done.stderr
