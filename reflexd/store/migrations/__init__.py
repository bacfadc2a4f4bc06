"""Decides nothing: the folder of the numbered schema changes, applied by store/database.py."""
