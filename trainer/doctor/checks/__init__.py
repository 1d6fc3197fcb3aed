"""A file for each check."""
