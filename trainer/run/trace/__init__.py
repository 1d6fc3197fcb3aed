"""`banyan data trace`: from documents to shards, runs, checkpoints and exports, and back, as far as this disk knows."""
