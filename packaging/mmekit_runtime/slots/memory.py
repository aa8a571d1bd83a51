"""Memory, as the kernel tells it."""

from __future__ import annotations


def private_bytes(pid: int | str = "self") -> int:
    """Return what a process shares with no other; 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123
            lines = file.read().splitlines()
    except OSError:
        return 0
    names = (b"Private_Clean:", b"Private_Dirty:")
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(names))
