"""Read every page of an archive of PDFs, as a Ray job.

Use:  ray job submit --working-dir . -- python jobs/documents.py --config configs/documents.yaml
It takes what ``dsvl run`` takes (``--set``, ``--limit``, ``--fresh``) and ends as it does.
"""

from __future__ import annotations

import sys

from dsvl_pipeline.cli.main import run_as_job

if __name__ == "__main__":
    sys.exit(run_as_job("configs/documents.yaml"))
