"""Refusals: what a configuration asks for that cannot be honoured, each in one line."""
