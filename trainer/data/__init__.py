"""Text to token shards, and token shards to batches in one exact order."""
