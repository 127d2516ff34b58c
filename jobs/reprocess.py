"""Answer what is new or changed since the last run, by the clock, as a Ray job.

Use:  dsvl schedule configs/reprocess.yaml --cron "0 2 * * *" --create
or:   ray job submit --working-dir . -- python jobs/reprocess.py --config configs/reprocess.yaml
It takes what ``dsvl run`` takes (``--set``, ``--limit``, ``--fresh``) and ends as it does.
"""

from __future__ import annotations

import sys

from dsvl_pipeline.cli.main import run_as_job

if __name__ == "__main__":
    sys.exit(run_as_job("configs/reprocess.yaml"))
