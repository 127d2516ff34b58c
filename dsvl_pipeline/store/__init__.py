"""Bytes on a store, by URI: local files, S3, and what fsspec reads."""
