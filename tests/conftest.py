"""Fixtures that several packages' tests share."""

from __future__ import annotations

from tests.s3 import s3_bucket, s3_faults, s3_server

__all__ = ["s3_bucket", "s3_faults", "s3_server"]
