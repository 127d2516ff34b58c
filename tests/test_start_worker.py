"""The workers of the tests' own Ray."""

from __future__ import annotations

import subprocess
import sys

_TWO_WORKERS = """
import os
from tests.start_worker import preload
preload()
from ray import UniqueID
for _ in range(2):
    if os.fork() == 0:
        print(UniqueID.from_random().hex(), flush=True)
        os._exit(0)
    os.wait()
"""


def test_workers_draw_other_ids() -> None:
    """With the same ones they would take each other's objects for their own."""
    command = [sys.executable, "-c", _TWO_WORKERS]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert len(set(shown)) == 2
