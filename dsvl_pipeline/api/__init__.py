"""The public classes, under the names and with the manners of the reference documentation."""
