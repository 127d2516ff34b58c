"""Ask one or more prompts of every image of a manifest or glob, as a Ray job.

Use:  ray job submit --working-dir . -- python jobs/caption.py --config configs/caption.yaml
It takes what ``dsvl run`` takes (``--set``, ``--limit``, ``--fresh``) and ends as it does.
"""

from __future__ import annotations

import sys

from dsvl_pipeline.cli.main import run_as_job

if __name__ == "__main__":
    sys.exit(run_as_job("configs/caption.yaml"))
