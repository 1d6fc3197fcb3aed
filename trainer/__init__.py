"""What runs on a rank: data, model, engine, tracking, and the verbs that join them. Imports neither ray nor launch."""

__version__ = "0.1.0"
