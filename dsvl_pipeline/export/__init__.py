"""Copies of a table in other shapes."""
