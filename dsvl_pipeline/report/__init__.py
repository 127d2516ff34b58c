"""The review page of a table; reads the table only."""
