"""Metrics and where they go: console, metrics.jsonl, W&B, pictures."""
