"""Examines an allocation: checks that every rank takes part in, judged by rank 0."""
