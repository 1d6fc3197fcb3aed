"""A file for each engine."""
