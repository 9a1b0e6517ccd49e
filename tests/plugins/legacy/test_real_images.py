"""Images that Xen 4.0.4 and 4.5.5 wrote, of guests whose memory is known to the byte."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xsave
from tests.conftest import DATA, find_image

PATTERN_PAGES, WORDS = 64, np.arange(1024, dtype=np.uint32)


def image(name: str) -> Path:
    path = find_image(name)
    assert path is not None
    return path


def pages(path: Path, pfns: range) -> list[bytes]:
    found = xsave.read_pfns(path, pfns)
    return [b"" if (page := found[pfn][1]) is None else page.tobytes() for pfn in pfns]


def tmem_page(tag: int) -> bytes:
    lines = []
    for number in range(64):
        text = f"TMEM tag={tag:08x} rec={number:02d}/64 "
        filled = (chr(97 + (tag + number + at) % 26) for at in range(len(text), 63))
        lines.append(text + "".join(filled) + "\n")
    return "".join(lines).encode()


PV = ["xen404_pvpae_tmem", "xen455_ts32_pvpae_plain", "xen455_ts64_pvpae_remus3_plain"]


@pytest.mark.images(*PV)
def test_the_memory_of_a_pae_guest_is_what_it_wrote() -> None:
    for name in PV:
        path = image(name)
        report = xsave.verify(path)
        assert report.source.guest_type is xsave.GuestType.X86_PV
        assert report.source.word_size == (4 if "ts32" in name else 8)
        everything = pages(path, range(4096))
        first = next(
            pfn for pfn, page in enumerate(everything) if page[:4] == struct.pack("<I", 0xABC00000)
        )
        for number in range(PATTERN_PAGES):
            expected = 0xABC00000 | number << 12 | WORDS
            assert everything[first + number] == expected.astype("<u4").tobytes(), (name, number)


@pytest.mark.images("xen455_hvm_plain")
def test_the_memory_and_state_of_an_hvm_guest_are_what_it_had() -> None:
    path = image("xen455_hvm_plain")
    offsets = np.arange(0, 4096, 4, dtype=np.uint64)
    for pfn, page in zip(range(0x200, 0x800, 61), pages(path, range(0x200, 0x800))[::61],
                         strict=True):  # fmt: skip
        address = pfn << 12
        assert page.startswith(f"HVM page {address:08x}".encode())
        expected = np.uint64(address) ^ (offsets * 2654435761)
        assert page[256:] == expected.astype("<u4").tobytes()[256:]
    found = xsave.inspect(path)
    records = {item.name: item for item in found.items if hasattr(item, "fields")}
    assert records["xen.qemu.context"].size_bytes == 8 + 3070
    fields: Any = records["xen.qemu.xenstore_data"].fields
    assert [block["name"] for block in fields["physmap"]] == ["vga.vram"]
    context: Any = records["xen.hvm.context"].fields
    assert sum(record["type"] == "CPU" for record in context["save_records"]) == 1


def check_tmem(path: Path) -> None:
    """All pages that the guest had put into its persistent pool, but the first, which these
    releases lost."""
    report = xsave.verify(path)
    assert report.partial
    [remark] = [remark for remark in report.remarks if remark.is_loss]
    assert "tmem pool 0: 1 of 6 pages (the first one)" in remark.text
    record = xsave.read_record(path, "xen.tmem.pages").state
    handles = {
        (*oid, index): page.tobytes()
        for oid, index, page in zip(
            record.oids.tolist(), record.indexes.tolist(), record.contents, strict=True
        )
    }
    ones = (1 << 64) - 1
    assert handles == {
        (0x1234, 0, 0, 7): tmem_page(0x8001),
        (0x1234, 0, 0, 14): tmem_page(0x8002),
        (0x1234, 0, 0, 21): tmem_page(0x8003),
        (ones, ones, 0, 0xFFFFFFFF): tmem_page(0x80FF),
        (2, 2, 2, 2): bytes(4096),
    }


def test_tmem_of_the_bundled_image_holds_what_the_guest_put() -> None:
    check_tmem(DATA / "xen404_pvpae_tmem.cut.libxc.zst")


@pytest.mark.images("xen404_pvpae_tmem", "xen455_ts64_pvpae_tmem_bouncefix")
def test_tmem_of_the_whole_images_holds_what_the_guest_put() -> None:
    for name in ("xen404_pvpae_tmem", "xen455_ts64_pvpae_tmem_bouncefix"):
        check_tmem(image(name))


@pytest.mark.images("xen455_ts64_pvpae_remus3_plain")
def test_a_remus_stream_has_its_three_checkpoints() -> None:
    report = xsave.verify(image("xen455_ts64_pvpae_remus3_plain"))
    assert report.records["xen.libxc.checkpoint"].count == 2
    assert report.records["xen.pv.shared_info"].count == 3
