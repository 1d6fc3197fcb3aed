"""Encryption at rest: the user's key, the data keys that it wraps, and files of encrypted blocks with random access."""
