"""What a table leaves behind when it grows goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_HELD = """
import ctypes, sys
from millstream.streams import allocation

class Told(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Told
if sys.argv[1] == "mapped":
    allocation.map_large_blocks()
bytearray(8_000_000)  # once freed, what is smaller is taken from the heap
tables, small = [], []
for size in range(1, 31):
    tables.append(bytearray(size * 100_000))
    small.append(bytes(1_000))
    if len(tables) > 4:
        tables.pop(0)
print(library.mallinfo2().arena)
"""


def heap_bytes(how: str) -> int:
    ran = subprocess.run(
        [sys.executable, "-c", _HELD, how], check=True, capture_output=True, text=True
    )
    return int(ran.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has a heap")
def test_large_blocks_are_no_part_of_the_heap() -> None:
    assert heap_bytes("mapped") < heap_bytes("as it is") / 2
