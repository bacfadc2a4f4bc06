"""Decides how a local language model is had, kept running and asked."""
