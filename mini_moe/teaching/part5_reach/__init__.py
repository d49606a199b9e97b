"""Exercises of the notebooks 17 to 19, one file a notebook."""
