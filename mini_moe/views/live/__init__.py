"""Watching a model train, live."""
