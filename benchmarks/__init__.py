"""A script and a results file for every figure the README gives."""
