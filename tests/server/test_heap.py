"""What a worker's allocator keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# A block that glibc would map, and give back when it is freed, unless it is told to keep it.
PROGRAM = """
import sys
import numpy as np
from server import heap
if sys.argv[1] == "keep" and not heap.keep():
    sys.exit("no glibc")
block = np.ones(16 << 20, dtype=np.uint8)
spans = [one.split()[0].split("-") for one in open("/proc/self/maps") if one.rstrip().endswith("[heap]")]
print(any(int(start, 16) <= block.ctypes.data < int(end, 16) for start, end in spans))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt(3) and /proc are Linux's")
@pytest.mark.parametrize(("told", "inside"), [("keep", "True"), ("leave", "False")])
def test_large_blocks_stay_in_the_heap_once_it_is_told_to_keep_them(told: str, inside: str) -> None:
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", PROGRAM, told], cwd=root, capture_output=True, text=True, check=False)
    assert found.stdout.strip() == inside, found.stderr
