"""Processes of one run: who they are, when they stop, whether they live."""
