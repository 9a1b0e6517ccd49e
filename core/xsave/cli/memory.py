"""What this process does with memory that it has freed: keep it for the next batch."""

from __future__ import annotations

KEPT_BYTES = 128 << 20
# As in glibc's malloc.h, for mallopt(3).
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_THRESHOLD = 32 << 20  # that glibc accepts


def keep_freed_memory() -> None:
    """Before much is compressed or unpacked. By itself glibc gives the memory of each batch
    back to the kernel, which clears it for the next one: 220 000 page faults and 0.7 of 4.9 s
    of processor time when a native image of 4 GiB became an xl one. Peak memory is the same."""
    import ctypes  # numpy imports it too

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, LARGEST_THRESHOLD)
