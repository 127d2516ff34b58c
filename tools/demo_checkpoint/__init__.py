"""The checkpoint that the package ships: its files, and what makes its weights."""
