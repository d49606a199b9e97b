"""Exercises of the notebooks 00 to 05, one file a notebook."""
