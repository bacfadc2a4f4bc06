"""Decides nothing: the built-in plugins, loaded by entry point like any other distribution's."""
