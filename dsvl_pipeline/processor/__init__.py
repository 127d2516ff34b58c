"""Bytes and messages to requests; torch-free."""
