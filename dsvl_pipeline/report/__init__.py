"""Summaries; reads the table only."""
