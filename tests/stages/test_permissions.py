"""Files that may not be read or written are the user's to mend, so the message must name them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Root may read everything, so a process that is root becomes somebody else first.
_SCRIPT = """
import os, sys
from dsvl_pipeline.job.config import InputConfig
from dsvl_pipeline.errors import DsvlError
from dsvl_pipeline.sources.open import open_input
from dsvl_pipeline.table.writer import TableWriter
what, path = sys.argv[1:]
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    if what == "manifest":
        open_input(InputConfig(manifest=(path,), columns={"id": "id", "image": "image"}))
    elif what == "images":
        open_input(InputConfig(images=(path + "/*.jpg",)))
    else:
        TableWriter.open(path, num_shards=1, run_id="run", recipe="recipe")
except DsvlError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("what", ["manifest", "images", "output"])
def test_no_permission_names_the_file(tmp_path: Path, what: str) -> None:
    """Exit code 2, and the path in the message."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # pytest makes them for their owner alone
    closed = tmp_path / "closed.jsonl"
    if what == "manifest":
        closed.write_text(json.dumps({"id": "a", "image": "a.jpg"}))
    else:
        closed.mkdir()
    closed.chmod(0)
    path = str(closed / "table" if what == "output" else closed)
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, what, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Permission denied" in done.stdout
    assert str(closed) in done.stdout


def test_an_output_that_cannot_be_made_is_a_mistake_of_the_job() -> None:
    """Nothing can be created below /proc, not even by root."""
    from dsvl_pipeline.errors import ConfigError
    from dsvl_pipeline.table.writer import TableWriter

    with pytest.raises(ConfigError, match="/proc/table cannot be created") as caught:
        TableWriter.open("/proc/table", num_shards=1, run_id="run", recipe="recipe")
    assert caught.value.exit_code == 2
