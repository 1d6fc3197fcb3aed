"""Formats that a model is written in: one file each, and a row in formats.py."""
