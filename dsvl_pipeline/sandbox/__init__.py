"""Processes that may be lost: for code that may hang, crash or eat memory."""
