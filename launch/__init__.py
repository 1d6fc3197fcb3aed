"""Starts workers: the command line and the launchers. Imports trainer, never the other way round."""
