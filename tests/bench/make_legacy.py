"""Write the guest of an image as Xen 4.5 would have: a bare legacy stream of a 64-bit toolstack.

    python tests/bench/make_legacy.py big.save big.legacy

For measuring how fast such images are read. The guest must be HVM or PVH. What Xen leaves out of
these streams is left out: entries of holes, of which a legacy stream has none with a pfn.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import xsave

BATCH_MAX = 1024
P2M_SIZE = 1 << 26  # pages; more than any guest has that is measured
DEVICE_MODEL = b"QEVM\0\0\0\3\0"
STORE_PFN, IOREQ_PFN, BUFIOREQ_PFN = 1, 5, 6


def main() -> None:
    source, dest = map(Path, sys.argv[1:])
    with dest.open("wb", buffering=0) as file:
        for part in legacy_parts(source):
            file.write(part)


def legacy_parts(source: Path) -> Iterator[bytes]:
    """The whole stream in pieces, so that it need not fit into memory."""
    from xsave.pipeline.stream import open_stream

    manager, context, params = xsave.build_manager(), b"", {}
    with xsave.Workers(1) as pool:
        opened = open_stream(source, manager, pool, pages=lambda _format: xsave.PageMode.FULL)
        yield struct.pack("<Q", P2M_SIZE)
        yield struct.pack("<iIQII", -7, 0, 0, 0, 1)  # TSC_INFO
        for event in opened.reader:
            if isinstance(event, xsave.PageBatch):
                yield from batch(event)
            elif event.name == "xen.hvm.context":
                context = bytes(event.body)
            elif event.name == "xen.hvm.params":
                handler = manager.handlers.find(event.name)
                state = handler.decode(memoryview(event.body))
                params.update({param.index: param.value for param in state.params})
        opened.source.close()
    yield struct.pack("<iiQ", -2, 0, 1)  # VCPU_INFO: vcpu 0
    yield struct.pack("<ii", -9, 0)  # LAST_CHECKPOINT, end of the chunks
    yield struct.pack("<QQQ", *(params.get(i, 0) for i in (IOREQ_PFN, BUFIOREQ_PFN, STORE_PFN)))
    yield struct.pack("<I", len(context)) + context
    yield b"DeviceModelRecord0002" + struct.pack("<I", len(DEVICE_MODEL)) + DEVICE_MODEL


def batch(event: xsave.PageBatch) -> Iterator[bytes]:
    carries = xsave.carries_page(event.entries)
    if not carries.any() or event.pages is None:
        return
    kept = event.entries[carries]
    assert len(kept) <= BATCH_MAX
    stored = (kept >> np.uint64(60)) << np.uint64(28) | kept & xsave.PFN_MASK
    yield struct.pack("<i", len(kept)) + stored.astype("<u8").tobytes()
    yield event.pages.tobytes()


if __name__ == "__main__":
    main()
