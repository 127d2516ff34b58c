"""One device: many requests at once; knows no files, no Ray."""
