"""Decides which memory lies in huge pages: what a forward reads from end to end, and the large tensors of training.

An encoder's weights are thousands of ordinary pages, more than a processor remembers the places of, so a forward has
most of them looked up again, in a virtual machine twice over; and what was remembered is lost to whatever ran between.
In pages of 2 MiB the weights of MiniLM are two dozen. Neither the numbers change by that nor the memory in use, since
only pieces are moved of which every page is in use already. What it brings is in benchmarks/README.md.

Linux alone has it; the kernel moves a piece at once since 6.1, and in the background before. An operator who has turned
huge pages off (`/sys/kernel/mm/transparent_hugepage/enabled`) is heeded. Sources: madvise(2), proc_pid_pagemap(5).
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MADV_HUGEPAGE, MADV_COLLAPSE = 14, 25
SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
ENTRY = 8
"""Bytes of a page's entry in /proc/self/pagemap."""
PRESENT = np.uint64(1 << 63)
"""The bit of an entry that says that its page is in memory."""


def gather() -> int:
    """Move this process's own memory into huge pages wherever a piece of their size is in use throughout.

    Returns the bytes of such pieces, those that were in huge pages before included; 0 where the system has none to
    give, or is told to give none. What the kernel refuses stays as it is.
    """
    size = _page_size()
    if not size:
        return 0
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    try:
        found = list(_in_use(size))
    except OSError:  # a sandbox may hide /proc
        return 0
    for start, end in found:
        # The advice is for kernels that cannot do it at once. Memory that is gone by now is refused, which is as well.
        libc.madvise(start, end - start, MADV_HUGEPAGE)
        libc.madvise(start, end - start, MADV_COLLAPSE)
    return sum(end - start for start, end in found)


def allocation() -> dict[str, str]:
    """Return the variable by which the C library of a new process takes its large pieces of memory as huge pages.

    glibc heeds it since 2.35 and where the system leaves the choice to programs; others ignore it. The daemon itself
    cannot be given it, being started by others; and `gather` costs it no memory.
    """
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def _page_size() -> int:
    """Return the bytes of a huge page; 0 where there are none to be had."""
    if sys.platform != "linux":
        return 0
    try:
        allowed = "[never]" not in (SETTINGS / "enabled").read_text()
        return int((SETTINGS / "hpage_pmd_size").read_text()) if allowed else 0
    except (OSError, ValueError):
        return 0


def _in_use(size: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of private memory of no file whose pages are all in use, cut to multiples of `size`."""
    pages = size // mmap.PAGESIZE
    with Path("/proc/self/pagemap").open("rb", buffering=0) as entries:
        for start, end in _anonymous():
            first, last = -(-start // size), end // size
            if first >= last:
                continue
            entries.seek(first * pages * ENTRY)
            page = np.frombuffer(entries.read((last - first) * pages * ENTRY), np.uint64)
            whole = ((page & PRESENT) != 0).reshape(-1, pages).all(axis=1)
            edges = np.flatnonzero(np.diff(whole, prepend=False, append=False)) + first
            yield from zip((edges[::2] * size).tolist(), (edges[1::2] * size).tolist(), strict=True)


def _anonymous() -> Iterator[tuple[int, int]]:
    """Yield where this process's private, writable memory of no file begins and ends."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        where, rights, _, _, inode, *name = line.split(maxsplit=5)
        if rights == "rw-p" and inode == "0" and (not name or name[0] == "[heap]"):
            start, _, end = where.partition("-")
            yield int(start, 16), int(end, 16)
