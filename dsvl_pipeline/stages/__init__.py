"""What workers do with rows; knows no Ray."""
