"""Exercises of the notebooks 10 and 11, one file a notebook."""
