"""Decides that `python -m reflexd` is the same program as `reflexd`."""

from reflexd.cli import main

if __name__ == "__main__":
    main()
