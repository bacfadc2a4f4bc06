"""Decides how what a newcomer installs is tested: the scripts, the demo, a stranger's plugin."""
