"""Ranks, DeepSpeed, the training loop, checkpoints and health."""
