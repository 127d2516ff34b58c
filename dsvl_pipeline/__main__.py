"""``python -m dsvl_pipeline``: the same as ``dsvl``."""

from __future__ import annotations

import sys

from dsvl_pipeline.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
