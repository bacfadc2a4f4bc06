"""Decides how the words beside the code are held to it: README.md, reflexd.toml, the house rules."""
