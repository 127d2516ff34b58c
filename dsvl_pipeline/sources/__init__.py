"""What a job reads, as rows."""
