"""Serving: an OpenAI-compatible front over engines, and its page."""
