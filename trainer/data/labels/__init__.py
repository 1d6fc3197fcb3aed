"""Annotated data: schemas, accuracy against a gold set, agreement between annotators."""
