"""Shows that memory which a rush has left behind is given back, and that little is not worth the trouble."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from reflexd.scheduler import periodic
from reflexd.scheduler.periodic import TRIM_ABOVE_BYTES, TRIM_TRIES, _Trimmer

SCRIPT = """
import ctypes
from reflexd.scheduler.periodic import _resident_bytes, _Trimmer
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
trimmer, sizes = _Trimmer(), [_resident_bytes()]
blocks = [libc.malloc(1_000) for _ in range(100_000)]
for block in blocks:
    ctypes.memset(block, 1, 1_000)
for block in blocks[:-1]:  # the last one keeps the heap's end in use
    libc.free(block)
sizes.append(_resident_bytes())
trimmer()
print(*sizes, _resident_bytes())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_free_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before, held, after = map(int, done.stdout.split())
    assert held - before > 80_000_000
    assert after - before < 30_000_000


def test_it_trims_what_has_grown_until_that_is_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    trimmed: list[int] = []
    monkeypatch.setattr(periodic, "_resident_bytes", lambda: sizes[0])
    sizes[:] = [10**9]
    trimmer = _Trimmer()
    trimmer._trim = trimmed.append
    for size in (10**9 + TRIM_ABOVE_BYTES, 10**9 - 10**8, 10**9 - 10**8 + TRIM_ABOVE_BYTES):
        sizes[:] = [size]
        trimmer()
    assert trimmed == [], "the least that was ever enough counts"
    sizes[0] += 1
    for tick in range(5):
        trimmer()
        assert len(trimmed) == min(tick + 1, TRIM_TRIES), "what cannot be given back is in use"
    sizes[0] += TRIM_ABOVE_BYTES + 1
    trimmer._trim = lambda _: sizes.__setitem__(0, sizes[0] - TRIM_ABOVE_BYTES // 4)
    for _ in range(3):
        trimmer()
    assert sizes[0] == 10**9 - 10**8 + 2 * TRIM_ABOVE_BYTES + 2 - TRIM_ABOVE_BYTES // 4
