"""Decides what a file becomes under a lazy edit: exactly that, or nothing."""
