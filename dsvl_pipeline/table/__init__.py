"""The exactly-once output table."""
