"""The small checkpoint and its sample inputs (package data)."""
