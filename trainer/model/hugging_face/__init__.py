"""All that meets Hugging Face: config.json, tensor files, and models run by its own code."""
