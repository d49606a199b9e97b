"""Exercises of the notebooks 12 to 16, one file a notebook or topic."""
