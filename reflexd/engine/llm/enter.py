"""Decides how a program that is not ours becomes a child that ends with the daemon and gives way to it.

`python -m reflexd.engine.llm.enter NICE PARENT PROGRAM ARGUMENT...`, where PARENT is the daemon's process id. The
kernel's parent-death signal and the niceness outlive the exec; the program's own children get the signal by
site/sitecustomize.py.
"""

from __future__ import annotations

import os
import sys

from reflexd.engine.lifeline import die_with_parent, give_way


def main() -> None:
    """Become the program."""
    nice, parent, program, *arguments = sys.argv[1:]
    die_with_parent()
    if os.getppid() != int(parent):  # it ended before this program began
        sys.exit(0)
    give_way(int(nice))
    os.environ.pop("PYTHONSAFEPATH", None)
    os.execv(program, [program, *arguments])  # noqa: S606 - that is what this module is for


if __name__ == "__main__":
    main()
