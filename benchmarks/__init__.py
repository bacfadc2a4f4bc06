"""Measures what the performance claims rest on: one script a claim, every side in one run."""
