"""Shows what real processes do: the daemon, its training children and the command line."""
