"""The process in which `isolation.Isolated` prepares rows: one frame in, one frame out."""

from __future__ import annotations

import os
import pickle
import sys

from dsvl_pipeline.sandbox.frames import read_frame, write_frame
from dsvl_pipeline.sandbox.limits import limit_cpu
from dsvl_pipeline.stages.preprocess import prepare_row


def main() -> None:
    """Answer rows, each of which comes with its job, until stdin ends."""
    rows, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not get between the frames.
    os.dup2(2, 1)
    write_frame(answers, {"ready": True})
    while True:
        try:
            _, body = read_frame(rows)
        except EOFError:
            return
        row, job = pickle.loads(body)
        limit_cpu(2 * job.input.image_timeout_s * (1 + len(row["sources"])))
        write_frame(answers, {}, pickle.dumps(prepare_row(row, job)))


if __name__ == "__main__":
    main()
