"""What ``generate`` does: on the engine where that serves, else step by step over ``forward``."""
