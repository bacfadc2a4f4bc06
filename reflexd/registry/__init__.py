"""Decides how files of models and runs lie on disk: files only, no names."""
