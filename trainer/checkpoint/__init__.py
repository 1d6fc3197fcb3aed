"""Checkpoints of any shape: fragments in files, an index, COMPLETE last."""
