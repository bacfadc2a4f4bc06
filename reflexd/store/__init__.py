"""Decides what is remembered: one SQLite file that only the daemon opens."""
