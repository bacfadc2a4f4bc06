"""Decides what leaves this machine: the door out (door.py), who may be reached (policy.py), webhooks (sender.py)."""
