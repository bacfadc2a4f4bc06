"""Merges a lazy edit into a file: exactly, or not at all."""
