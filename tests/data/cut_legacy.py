"""Make the small legacy image here from the real one it is cut from.

    python tests/data/cut_legacy.py xen404_pvpae_tmem.libxc

All but page batches stays as it was, to the byte. Of the memory, page tables stay and what the
vcpu refers to, and of other pages a few: no test needs more, and nothing of it is anybody's.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
KEPT = 24  # pages without a meaning of their own, of each batch
PATTERN = 0xABC00000  # of the guest's memory: known, and large when packed


def cut(data: bytes) -> bytes:
    """A bare stream of a 64-bit toolstack, of a PV guest of width 4."""
    at = 20 + struct.unpack_from("<I", data, 16)[0]  # behind the extended info
    at += 8 * -(-struct.unpack_from("<Q", data)[0] * 4 // 4096)  # and the p2m's list
    out = [data[:at]]
    while True:
        found = find_batch(data, at)
        if found is None:
            return b"".join((*out, data[at:]))
        out.append(data[at:found])
        batch, at = fewer(data, found)
        out.append(batch)


def find_batch(data: bytes, at: int) -> int | None:
    """The next one; what stands before is chunks, kept as they are. Batches here are full, or
    are the last."""
    for size in range(1024, 0, -1):
        place = data.find(struct.pack("<i", size), at, at + 40_000)
        while place >= 0:
            entries = np.frombuffer(data, "<u8", min(size, 64), place + 4)
            known = entries[entries != 0xF0000000] & np.uint64(0xFFFFFFF)
            if (entries >> np.uint64(32)).any() or len(known) < 2 or (np.diff(known) < 1).any():
                place = data.find(struct.pack("<i", size), place + 1, at + 40_000)
                continue
            return place
    return None


def fewer(data: bytes, at: int) -> tuple[bytes, int]:
    count = struct.unpack_from("<i", data, at)[0]
    entries = np.frombuffer(data, "<u8", count, at + 4)
    page_at, kept, pages, plain = at + 4 + 8 * count, [], [], 0
    for entry in entries.tolist():
        kind = entry >> 28
        if kind >= 0xD:
            kept.append(entry)
            continue
        page = data[page_at : page_at + 4096]
        page_at += 4096
        is_pattern = struct.unpack_from("<I", page)[0] & 0xFFF00000 == PATTERN
        if kind == 0 and (is_pattern or plain >= KEPT) and not needed(page):
            continue
        plain += kind == 0
        kept.append(entry)
        pages.append(page)
    return struct.pack(f"<i{len(kept)}Q", len(kept), *kept) + b"".join(pages), page_at


def needed(page: bytes) -> bool:
    """The start-info page; others that a vcpu refers to are among the first of their batch."""
    return page.startswith(b"xen-3.0-")


def main() -> None:
    import xsave

    codec = xsave.build_manager().codecs.find("zstd")
    for path in map(Path, sys.argv[1:]):
        data = cut(path.read_bytes())
        name = f"{path.stem}.cut{path.suffix}.zst"
        (HERE / name).write_bytes(codec.compress(data, 19))
        print(name, len(data), (HERE / name).stat().st_size)


if __name__ == "__main__":
    main()
