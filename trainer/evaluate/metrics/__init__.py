"""Metrics: from what was expected and what came to a figure, equal to the field's reference libraries."""
