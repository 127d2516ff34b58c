"""What fake engines were asked, in whatever process: a line a request, in a file."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from dsvl_pipeline.engine.fake import FakeEngine
from dsvl_pipeline.records import Request

LOG = "DSVL_TEST_GENERATED"


def install() -> None:
    """Let the fake engine of this process write down what it is asked."""
    submit = FakeEngine.submit

    def written_down(self: FakeEngine, request: Request) -> None:
        with Path(os.environ[LOG]).open("a") as log:
            log.write(f"{os.getpid()} {request.request_id}\n")
        submit(self, request)

    FakeEngine.submit = written_down  # type: ignore[method-assign]


if LOG in os.environ:  # imported where workers are forked from, see `tests.start_worker`
    install()


def requests(log: Path) -> Counter[str]:
    """How often each was asked."""
    return Counter(line.split()[1] for line in _lines(log))


def engines(log: Path) -> Counter[str]:
    """How many requests each engine's process got."""
    return Counter(line.split()[0] for line in _lines(log))


def _lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []
