"""Formats of manifests."""
