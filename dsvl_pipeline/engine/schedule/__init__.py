"""What is computed next, and for whom; knows no torch."""
