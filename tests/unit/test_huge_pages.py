"""Shows that an encoder's weights come to lie in huge pages, that this costs no memory, and that a no is heeded."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reflexd.engine import huge_pages
from reflexd.engine.lifeline import child_environment

MIB = 2**20
needs_huge_pages = pytest.mark.skipif(not huge_pages._page_size(), reason="this system has no huge pages to give")


def of_region(address: int) -> dict[str, int]:
    """Return what /proc/self/smaps says of the memory at an address, in bytes, summed to the next gap."""
    found: dict[str, int] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(head[1], 16) <= address < int(head[2], 16)
        elif inside and line.endswith(" kB"):
            name, size, _ = line.split()
            found[name.rstrip(":")] = int(size) * 1024
    return found


def region(size: int, touched_every: int) -> tuple[mmap.mmap, int]:
    """Return new memory with a byte written every so often, and the address of its first whole huge page."""
    made = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    made.madvise(mmap.MADV_NOHUGEPAGE)  # whatever the system would have done by itself
    made[::touched_every] = b"x" * len(range(0, size, touched_every))
    address = np.frombuffer(made, np.uint8).ctypes.data
    return made, -(-address // (2 * MIB)) * 2 * MIB


@needs_huge_pages
def test_memory_in_use_is_moved_and_keeps_what_it_holds() -> None:
    """Every page of it is in use."""
    made, inside = region(32 * MIB, mmap.PAGESIZE)
    assert of_region(inside)["AnonHugePages"] == 0
    assert huge_pages.gather() >= 28 * MIB
    assert of_region(inside)["AnonHugePages"] >= 16 * MIB  # a crowded kernel may refuse some
    assert made[:: mmap.PAGESIZE] == b"x" * (32 * MIB // mmap.PAGESIZE)


@needs_huge_pages
def test_memory_that_is_half_empty_stays_as_it_is() -> None:
    """In huge pages it would take what it does not use."""
    _, inside = region(32 * MIB, 2 * mmap.PAGESIZE)
    before = of_region(inside)
    huge_pages.gather()
    after = of_region(inside)
    assert after["Rss"] == before["Rss"] <= 17 * MIB
    assert after["AnonHugePages"] == 0


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"enabled": "always madvise [never]\n", "hpage_pmd_size": "2097152\n"}, id="turned off"),
        pytest.param({"enabled": "always [madvise] never\n"}, id="an old kernel"),
        pytest.param({}, id="none"),
    ],
)
def test_a_system_without_them_is_heeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    """Nothing is moved."""
    for name, text in settings.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(huge_pages, "SETTINGS", tmp_path)
    made, inside = region(8 * MIB, mmap.PAGESIZE)
    assert huge_pages.gather() == 0
    assert of_region(inside)["AnonHugePages"] == 0
    made.close()


OPEN = """
import re, sys
from pathlib import Path
from reflexd.engine.encoder import Encoder
kept = lambda: int(re.search(r"AnonHugePages: +([0-9]+)", Path("/proc/self/smaps_rollup").read_text())[1]) // 1024
before = kept()
encoder = Encoder(Path(sys.argv[1]))
print(kept() - before)
"""


@needs_huge_pages
def test_an_encoder_that_is_opened_lies_in_them(encoder_dir: Path) -> None:
    """Of MiniLM's weights, 34 MB in int8, and what else the process has at least two thirds."""
    done = subprocess.run([sys.executable, "-c", OPEN, encoder_dir], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 24


def test_a_child_takes_its_large_pieces_as_huge_pages_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the daemon was started with comes first."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert child_environment()["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    assert child_environment()["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=0"


@needs_huge_pages
@pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in os.confstr_names or "[madvise]" not in (huge_pages.SETTINGS / "enabled").read_text(),
    reason="glibc asks for huge pages only where the system leaves it to programs",
)
def test_a_large_tensor_of_a_child_lies_in_them() -> None:
    """A tensor of 64 MB, as training makes them."""
    code = (
        "import torch, re; held = torch.ones(16 * 2**20);"
        "print(re.search(r'AnonHugePages: +([0-9]+)', open('/proc/self/smaps_rollup').read())[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=child_environment(), capture_output=True, check=True)
    assert int(done.stdout) * 1024 >= 32 * MIB
