"""Shows that an encoder's weights come to lie in huge pages, that this costs no memory, and that a no is heeded."""

from __future__ import annotations

import ctypes
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
PLACES, PAGE = 32 * MIB, mmap.PAGESIZE


def moves_when_asked() -> bool:
    """Whether this kernel moves memory into huge pages at once, and by itself gives none to who does not ask."""
    if huge_pages.page_size() != 2 * MIB or "[madvise]" not in (huge_pages.SETTINGS / "enabled").read_text():
        return False
    return ctypes.CDLL(None).madvise(None, 0, huge_pages.MADV_COLLAPSE) == 0 and huge_pages.gather() > 0


needs_huge_pages = pytest.mark.skipif(not moves_when_asked(), reason="this system moves nothing into huge pages")


def of_region(address: int) -> dict[str, int]:
    """Return what /proc/self/smaps says of the mapping that holds an address, in bytes."""
    found: dict[str, int] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_bytes().split(b"\n"):
        if head := re.match(rb"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(head[1], 16) <= address < int(head[2], 16)
        elif inside and line.endswith(b" kB"):
            name, size, _ = line.decode().split()
            found[name.rstrip(":")] = int(size) * 1024
    return found


def region(size: int = PLACES) -> tuple[mmap.mmap, int]:
    """Return new memory, a mapping of its own, and an address in it."""
    made = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    made.madvise(mmap.MADV_DONTFORK)  # unlike its neighbours, or the kernel would make one mapping of them
    return made, np.frombuffer(made, np.uint8).ctypes.data + size // 2


def write(made: mmap.mmap, every: int) -> None:
    made[::every] = b"x" * len(range(0, len(made), every))


@needs_huge_pages
def test_memory_in_use_is_moved_and_keeps_what_it_holds() -> None:
    """And it is not marked: what is freed there comes back in ordinary pages."""
    made, inside = region()
    write(made, PAGE)
    assert of_region(inside)["AnonHugePages"] == 0
    assert huge_pages.gather() >= PLACES - 4 * MIB
    assert of_region(inside)["AnonHugePages"] >= PLACES // 2  # a crowded kernel may refuse some
    assert made[::PAGE] == b"x" * (PLACES // PAGE)
    made.madvise(mmap.MADV_DONTNEED)
    write(made, 2 * MIB)
    assert of_region(inside)["Rss"] <= PLACES // (2 * MIB) * PAGE


@needs_huge_pages
def test_memory_that_is_half_empty_stays_as_it_is() -> None:
    """In huge pages it would take what it does not use."""
    made, inside = region()
    write(made, 2 * PAGE)
    before = of_region(inside)["Rss"]
    huge_pages.gather()
    assert of_region(inside)["Rss"] == before == PLACES // 2
    assert of_region(inside)["AnonHugePages"] == 0


@needs_huge_pages
def test_memory_that_was_only_read_stays_as_it_is() -> None:
    """It is one page of zeros, many times over."""
    made, inside = region()
    made[0] = 1  # what was never written at all, the kernel leaves alone by itself
    assert sum(made[::PAGE]) == 1
    huge_pages.gather()
    assert of_region(inside)["Rss"] == PAGE


@needs_huge_pages
def test_mappings_of_files_with_odd_names_are_passed_over(tmp_path: Path) -> None:
    """A name is any bytes but a slash, those among them that some take for the end of a line."""
    odd = os.fsencode(tmp_path) + b"/\xff\x0c\n\xc3\x85 rw-p"
    with open(odd, "w+b") as file:
        file.truncate(4 * MIB)
        with mmap.mmap(file.fileno(), 4 * MIB, access=mmap.ACCESS_COPY):
            assert huge_pages.gather() > 0


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"enabled": "always madvise [never]\n", "hpage_pmd_size": "2097152\n"}, id="turned off"),
        pytest.param({"enabled": "always [madvise] never\n"}, id="an old kernel"),
        pytest.param({"enabled": "always [madvise] never\n", "hpage_pmd_size": "536870912\n"}, id="too large"),
        pytest.param({}, id="none"),
    ],
)
def test_a_system_without_them_is_heeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    """Nothing is moved, and children are told nothing."""
    for name, text in settings.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(huge_pages, "SETTINGS", tmp_path)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    made, inside = region()
    write(made, PAGE)
    before = of_region(inside)["AnonHugePages"]
    assert huge_pages.gather() == 0
    assert of_region(inside)["AnonHugePages"] == before
    assert "GLIBC_TUNABLES" not in child_environment()


@pytest.mark.parametrize(("own", "size"), [("[inherit]", 2 * MIB), ("[madvise]", 2 * MIB), ("[never]", 0)])
def test_the_setting_of_the_size_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, size: int
) -> None:
    """Newer kernels have one for each size."""
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    (tmp_path / "hpage_pmd_size").write_text(f"{2 * MIB}\n")
    (tmp_path / "hugepages-2048kB").mkdir()
    (tmp_path / "hugepages-2048kB/enabled").write_text(f"{own}\n")
    monkeypatch.setattr(huge_pages, "SETTINGS", tmp_path)
    assert huge_pages.page_size() == size


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
    """Of MiniLM's weights, 34 MB in int8, and what else the process has, half at least."""
    done = subprocess.run([sys.executable, "-c", OPEN, encoder_dir], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 16


@needs_huge_pages
def test_a_child_takes_its_large_pieces_as_huge_pages_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the daemon was started with comes first."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert child_environment()["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    assert child_environment()["GLIBC_TUNABLES"] == "glibc.malloc.check=0"


def glibc() -> tuple[int, ...]:
    """Return the version of the C library; () where it is another one."""
    said = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    return tuple(map(int, said.removeprefix("glibc ").split("."))) if said else ()


@needs_huge_pages
@pytest.mark.skipif(glibc() < (2, 35), reason="this C library takes ordinary pages")
def test_a_large_tensor_of_a_child_lies_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor of 64 MB, as training makes them."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    code = (
        "import torch, re; held = torch.ones(16 * 2**20);"
        "print(re.search(r'AnonHugePages: +([0-9]+)', open('/proc/self/smaps_rollup').read())[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=child_environment(), capture_output=True, check=True)
    assert int(done.stdout) * 1024 >= 32 * MIB
