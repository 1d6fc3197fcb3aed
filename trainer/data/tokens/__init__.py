"""Token shards to batches in one exact order."""
