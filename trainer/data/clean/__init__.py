"""Cleaning: documents that are worth training on, and what is changed in them."""
