"""The decoder, in plain PyTorch; knows nothing of ranks."""
