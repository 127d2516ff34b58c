"""The dsvl command: parsing and printing only."""
