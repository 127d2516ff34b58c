"""A run from its start to its end, and previews of it; knows no Ray."""
