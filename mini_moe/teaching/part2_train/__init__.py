"""Exercises of the notebooks 06 to 09, one file a notebook."""
