"""Decides which memory lies in huge pages: what a forward reads from end to end, and the large tensors of training.

An encoder's weights are thousands of ordinary pages, more than a processor remembers the places of, so a forward has
most of them looked up again, in a virtual machine twice over; and what was remembered is lost to whatever ran between.
In pages of 2 MiB the weights of MiniLM are two dozen. Neither the numbers change by that nor the memory in use, since
only pieces are moved of which every page is in use already, and no piece is marked: what is freed comes back in
ordinary pages. What it brings is in benchmarks/README.md.

That takes Linux 6.1 or newer, where the kernel moves a piece when it is asked to. An operator who has turned huge pages
off (`never` in /sys/kernel/mm/transparent_hugepage/enabled) is heeded. Sources: madvise(2), proc_pid_pagemap(5).
The command line reads this module too, so it imports nothing that takes long.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

MADV_COLLAPSE = 25
SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
LARGEST = 2 * 2**20
"""Bytes of the largest huge page that is used: with some ARM kernels one has 512 MiB, which no encoder fills."""
ENTRY = 8
"""Bytes of a page's entry in /proc/self/pagemap."""
IN_USE = 1 << 63 | 1 << 56
"""The bits of an entry that say its page is in memory and this process's alone; memory that was only read is not."""


def gather() -> int:
    """Move this process's own memory into huge pages wherever a piece of their size is in use throughout.

    Returns the bytes of such pieces, those that were in huge pages before included; 0 where the system has none to
    give, is told to give none, or hides what is in use, as a sandbox may. What the kernel refuses stays as it is.
    """
    size = page_size()
    libc = ctypes.CDLL(None)
    if not size or not hasattr(libc, "madvise"):
        return 0
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if libc.madvise(None, 0, MADV_COLLAPSE):  # asked about nothing: does the kernel know the word
        return 0
    try:
        found = list(_in_use(size))
    except (OSError, ValueError, TypeError):  # no reason not to open an encoder
        return 0
    for start in found:
        libc.madvise(start, size, MADV_COLLAPSE)
    return size * len(found)


def allocation() -> dict[str, str]:
    """Return the variable by which the C library of a new process takes its large pieces of memory as huge pages.

    glibc heeds it since 2.35 and where the system leaves the choice to programs; others ignore it. The daemon itself
    cannot be given it, being started by others; and `gather` costs it no memory.
    """
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if page_size() else {}


def page_size() -> int:
    """Return the bytes of a huge page; 0 where there are none to be had."""
    if sys.platform != "linux":
        return 0
    try:
        size = int((SETTINGS / "hpage_pmd_size").read_text())
        allowed = (SETTINGS / "enabled").read_text()
        own = SETTINGS / f"hugepages-{size // 1024}kB" / "enabled"  # since Linux 6.8, and mostly [inherit]
        if own.exists() and "[inherit]" not in (said := own.read_text()):
            allowed = said
    except (OSError, ValueError):
        return 0
    return size if 0 < size <= LARGEST and "[never]" not in allowed else 0


def _in_use(size: int) -> Iterator[int]:
    """Yield where each piece of `size` bytes begins that is private memory of no file with every page in use."""
    pages = size // mmap.PAGESIZE
    with Path("/proc/self/pagemap").open("rb", buffering=0) as entries:
        for start, end in _anonymous():
            for piece in range(-(-start // size), end // size):
                entries.seek(piece * pages * ENTRY)
                read = memoryview(entries.read(pages * ENTRY)).cast("Q")
                if len(read) == pages and all(entry & IN_USE == IN_USE for entry in read):
                    yield piece * size


def _anonymous() -> Iterator[tuple[int, int]]:
    """Yield where this process's private, writable memory of no file begins and ends."""
    for line in filter(None, Path("/proc/self/maps").read_bytes().split(b"\n")):
        where, rights, _, _, inode, *name = line.split(maxsplit=5)
        if rights == b"rw-p" and inode == b"0" and (not name or name[0] == b"[heap]"):
            start, _, end = where.partition(b"-")
            yield int(start, 16), int(end, 16)
