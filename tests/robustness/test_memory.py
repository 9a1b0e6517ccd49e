"""A hostile image costs no more memory than a large good one.

What it claims is bounded before room is made; what it packs small is bounded by the largest
piece there is, 128 MiB. Each case runs in a process of its own, whose greatest resident size
is compared with that of a process which reads a small good image.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import xsave
from tests.plugins.legacy import build as o
from tests.plugins.qemu_device import streams as q
from tests.plugins.xen_stream import build as b
from tests.robustness.images import HEADER, Piece, batch, kind_of, native, record
from xsave_plugins.native import spec

MIB = 1 << 20
HUGE = 128 * MIB

PROGRAM = r"""
import re, sys, numpy, xsave  # numpy, since not every image wants it
status = 0
try:
    source = sys.argv[1]
    if sys.argv[2] == "pipe":
        import os, threading
        data = open(source, "rb").read()
        reader, writer = os.pipe()
        def feed():
            with open(writer, "wb") as out:
                try:
                    out.write(data)
                except BrokenPipeError:
                    pass
        threading.Thread(target=feed, daemon=True).start()
        source = reader
    xsave.verify(source, workers=4)
except xsave.StreamError as error:
    status = 3
    print(error, file=sys.stderr)
# not ru_maxrss: that of a child begins with what its parent had
found = re.search(r"VmHWM:\s*(\d+) kB", open("/proc/self/status").read())
print(int(found[1]) * 1024, status)
"""


def peak_bytes(data: bytes, folder: Path, kind: str = "file") -> tuple[int, int]:
    """Greatest resident size of a process that verifies the image; its exit code."""
    path = folder / "image"
    path.write_bytes(data)
    command = [sys.executable, "-c", PROGRAM, str(path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    print(done.stderr)
    peak, status = map(int, done.stdout.split())
    return peak, status


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> int:
    """What a small good image costs: the interpreter and the libraries."""
    peak, status = peak_bytes(b.xl(b.libxl(b.libxc(b.hvm()))), tmp_path_factory.mktemp("usual"))
    assert status == 0
    return peak


def claims() -> dict[str, bytes]:
    """Small files that claim much."""
    static = [*b.policies(), b.Rec(b.STATIC_DATA_END)]
    head = b.libxc_header() + b.join(static)
    piece = struct.Struct("<4sBBHIIQQ")
    return {
        "a libxc body of 128 MiB": head + bytes(b.Rec(b.HVM_CONTEXT, length=HUGE)),
        "128 MiB of pages": head + bytes(b.page_data([(0, n) for n in range(32)], length=HUGE)),
        "128 MiB of entries": head
        + struct.pack("<IIII", b.PAGE_DATA, HUGE - 8, (HUGE - 16) // 8, 0),
        "16 MiB of xl configuration": b.xl_header(b"", optional_data_len=16 * MIB),
        "a legacy p2m of 1 TiB": struct.pack("<Q", 1 << 28) + o.extended_info(8) + bytes(9999),
        "64 MiB of a legacy HVM context": o.hvm_head(8)
        + o.hvm_body(8)
        + struct.pack("<QQQI", 1, 2, 3, 64 * MIB)
        + bytes(999),
        "64 MiB of compressed legacy pages": o.hvm_head(8)
        + o.hvm_pages(8)
        + o.chunk(o.COMPRESSED_DATA, struct.pack("<Q", 64 * MIB)),
        "4 billion legacy pages in tmem": o.hvm_head(8)
        + o.tmem([o.Pool(0, n_pages=0xFFFFFFFF, pages=[((1, 2, 3), 4, bytes(4096))])])[:-100],
        "16 MiB of xend's configuration": b"LinuxGuestRecord\1\0\0\0(" + b"(" * 999,
        "16 MiB of xapi's metadata": b"XenSavedDomv2-\n" + struct.pack("<QQ", 0xF, 16 * MIB),
        "4 PiB of QEMU's RAM": q.HEAD + q.blocks([(b"pc.ram", 1 << 52)]) + q.section(q.PART),
        "an array of a billion in a description of QEMU's": q.HEAD
        + q.blocks()
        + q.section(q.END)
        + q.devices(q.Device(b"toy", 1, b"", [{"name": "a", "size": 0, "array_len": 1 << 30}]))
        + b"\0",
        "4 GiB of a description of QEMU's": q.HEAD
        + q.blocks()
        + q.section(q.END)
        + q.header(3, b"timer")
        + bytes(24)
        + q.footer(3)
        + b"\0\6\xff\xff\xff\xff{}",
        "a libxl body of 128 MiB": b.libxl(
            b.libxc(b.hvm()), [b.Rec(b.EMULATOR_CONTEXT, length=HUGE)]
        ),
        "a native table of 200 MB": native([])[:-200]
        + piece.pack(b"xsvp", spec.PAGES, 3, 0, 0, spec.TABLE_MAX, 0, 0),
        "a native body of 128 MiB": native([kind_of("a.b", 0), record(0, b"", size=HUGE)]).replace(
            struct.pack("<QQ", 0, 0), struct.pack("<QQ", HUGE, 0)
        ),
    }


@pytest.mark.parametrize("kind", ["file", "pipe"])
@pytest.mark.parametrize("data", claims().values(), ids=claims())
def test_a_claim_costs_nothing(data: bytes, kind: str, usual: int, tmp_path: Path) -> None:
    peak, status = peak_bytes(data, tmp_path, kind)
    assert status == 3
    assert peak - usual < 24 * MIB  # a large read begins with 8 MiB and grows as bytes come


def packed(manager: xsave.PluginManager, codec: str, size: int) -> bytes:
    made = manager.codecs.find(codec)
    return bytes(made.compress(bytes(size), made.default_level))


@pytest.mark.parametrize("codec", ["zstd", "lz4", "brotli"])
def test_a_bomb_beyond_its_claim_costs_what_it_claims(
    codec: str, manager: xsave.PluginManager, usual: int, tmp_path: Path
) -> None:
    bomb = packed(manager, codec, 512 * MIB)
    data = native([kind_of("a.b", 0), record(0, bomb, size=4096, codec=codec)])
    peak, status = peak_bytes(data, tmp_path)
    assert status == 3
    assert peak - usual < len(bomb) * 4 + 48 * MIB  # a codec's own window is up to 16 MiB


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_bomb_of_a_whole_file_is_unpacked_in_pieces(
    codec: str, manager: xsave.PluginManager, usual: int, tmp_path: Path
) -> None:
    """Standing alone, compressed: what is inside is 1 GiB of nothing any format knows."""
    made = manager.codecs.find(codec)
    if codec == "lz4":
        import lz4.frame

        bomb = lz4.frame.compress(b"Xen saved" + bytes(512 * MIB))
    else:
        bomb = bytes(made.compress(b"Xen saved" + bytes(512 * MIB), 1))
    peak, status = peak_bytes(bomb, tmp_path)
    assert status == 3
    assert peak - usual < len(bomb) * 2 + 64 * MIB


# Of no known kind, so that nothing is missed at the end.
ANY_GUEST = {**HEADER, "guest": {**HEADER["guest"], "type": "unknown"}}


def many_large_records(manager: xsave.PluginManager) -> bytes:
    """Optional ones, which a reader carries: each 128 MiB of zeroes in a few KB."""
    bomb = packed(manager, "zstd", HUGE)
    kind = kind_of("a.b", 0, mandatory=False)
    return native([kind, *[record(0, bomb, size=HUGE, codec="zstd")] * 6], ANY_GUEST)


def many_large_batches(manager: xsave.PluginManager) -> bytes:
    """2^15 pages each, all stored, all in a few KB."""
    nr_pages = spec.PAGES_MAX
    bomb = packed(manager, "zstd", nr_pages * b.PAGE)
    kind = kind_of("a.b", 0, mandatory=False)
    pieces = [
        batch(
            0, range(nr_pages), zero=[False] * nr_pages, slots=range(16, 16 + nr_pages),
            body=bomb, base=number * nr_pages, stored=nr_pages, codec="zstd",
        )
        for number in range(6)
    ]  # fmt: skip
    return native([kind, *pieces], ANY_GUEST)


def many_large_tables(_manager: xsave.PluginManager) -> bytes:
    """2^24 absent pfns in one run of 12 bytes, and again."""
    first = struct.pack("<QI", 0xF << 60, spec.ENTRIES_MAX)
    head = {
        "type": 0, "entries": spec.ENTRIES_MAX, "entry_runs": 1, "pages": 0, "slot_runs": 0,
        "stored": 0, "base": 0,
    }  # fmt: skip
    kind = kind_of("a.b", 0, mandatory=False)
    return native([kind, *[Piece(spec.PAGES, head, first)] * 6], ANY_GUEST)


@pytest.mark.parametrize(
    "make", [many_large_records, many_large_batches, many_large_tables], ids=lambda m: m.__name__
)
def test_many_of_the_largest_pieces_are_bounded_together(
    make: Callable[[xsave.PluginManager], bytes],
    manager: xsave.PluginManager, usual: int, tmp_path: Path,
) -> None:  # fmt: skip
    """They are right, so they are read; but only so many at once (here 768 MiB in all)."""
    data = make(manager)
    assert len(data) < 2 * MIB
    peak, status = peak_bytes(data, tmp_path)
    assert status == 0
    # one more than fits, and what is made on the way of the one at hand
    assert peak - usual < spec.AHEAD_BYTES + 5 * HUGE


CORES = r"""
import re, sys
import numpy as np
import xsave
from xsave.testing import MemoryFile

class Nowhere(MemoryFile):
    def put_at(self, offset, parts):
        pass

format_ = xsave.build_manager().formats.find(sys.argv[1])
info = xsave.ImageInfo("made", xsave.GuestType.X86_PV)
writer = format_.writer(Nowhere(), info, xsave.WriteOptions())
for pfn in (5, (1 << 30) - 1):
    pfns, page = np.array([pfn], np.uint64), np.ones((1, 4096), np.uint8)
    writer.put(xsave.PageBatch(xsave.RecordType("memory"), pfns, page, 1))
writer.finish()
print(re.search(r"VmHWM:\s*(\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.parametrize("format_", ["vmcore", "xen-core"])
def test_a_page_far_up_in_a_core_file_costs_nothing(format_: str, usual: int) -> None:
    """What is kept of each pfn is kept of those that there are."""
    command = [sys.executable, "-c", CORES, format_]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) * 1024 < usual + 64 * MIB
