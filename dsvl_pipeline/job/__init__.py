"""A job file: its sections, how it is read, and what its answers and columns may hold."""
