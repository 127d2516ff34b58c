"""Write ``configs/job.schema.json``: what ``dsvl schema`` prints. A test compares.

Use:  python -m tools.render_schema
"""

from __future__ import annotations

import json
from pathlib import Path

from dsvl_pipeline.job.schema import FILE, job_schema

PAGE = Path(__file__).resolve().parents[1] / "configs" / FILE


def rendered() -> str:
    """Return the text of the file."""
    return json.dumps(job_schema(), indent=2) + "\n"


if __name__ == "__main__":
    PAGE.write_text(rendered(), encoding="utf-8")
