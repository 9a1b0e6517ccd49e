"""The generated image is what it says: deterministic, well formed, of the shares asked for."""

from __future__ import annotations

import itertools
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from attrs import frozen

MAKE_IMAGE = Path(__file__).with_name("make_image.py")
GOLDEN = Path(__file__).parent.parent / "golden" / "records"
MIB = 1 << 20
RAM = 64 * MIB  # some two hundred runs of zero pages
PAGE_SIZE = 4096
XTAB = 0xF

PAGE_DATA, HVM_CONTEXT, HVM_PARAMS = 0x01, 0x09, 0x0A


LoadBench = Callable[[str], ModuleType]


def make(path: Path, *options: str, size_bytes: int = RAM) -> dict[str, float]:
    """The facts it prints of what it made."""
    argv = (sys.executable, str(MAKE_IMAGE), "--json", "--size", str(size_bytes), *options)
    done = subprocess.run((*argv, str(path)), capture_output=True, text=True, check=True)
    facts: dict[str, float] = json.loads(done.stderr)
    return facts


def records(stream: bytes, position: int) -> Iterator[tuple[int, bytes, int]]:
    """Number, body and end of each record, up to and with the one numbered 0."""
    while True:
        number, length = struct.unpack_from("<II", stream, position)
        end = position + 8 + length + (-length & 7)
        assert end <= len(stream)
        yield number, stream[position + 8 : position + 8 + length], end
        if number == 0:
            return
        position = end


def libxl_start(image: bytes) -> int:
    assert image.startswith(b"Xen saved domain, xl format\n \0 \r")
    order, flags, optional_flags, optional_length = struct.unpack_from("<4I", image, 32)
    assert (order, flags, optional_flags) == (0x01020304, 3, 0)
    config_length = struct.unpack_from("<I", image, 48)[0]
    assert config_length + 4 == optional_length
    config = json.loads(image[52 : 52 + config_length].rstrip(b"\0"))
    assert config["c_info"]["type"] == "pvh"
    return int(48 + optional_length)


@frozen
class Parsed:
    numbers: list[int]  # of the libxc records, page data once for each run of them
    bodies: dict[int, bytes]  # of the others
    entries: list[int]
    pages: list[bytes]


def parse(image: bytes, libxl: int) -> Parsed:
    """Everything after the xl header; refuses what does not fit together."""
    assert image[libxl : libxl + 16] == struct.pack(">8sII", b"LibxlFmt", 2, 0)
    assert image[libxl + 16 : libxl + 24] == struct.pack("<II", 1, 0)  # LIBXC_CONTEXT
    start = libxl + 24
    assert image[start : start + 24] == b"\xff" * 8 + struct.pack(">IIHHI", 0x58454E46, 3, 0, 0, 0)
    assert struct.unpack_from("<IHHII", image, start + 24) == (2, 12, 0, 4, 17)
    parsed, position = Parsed([], {}, [], []), start + 40
    for number, body, end in records(image, position):
        position = end
        if parsed.numbers[-1:] != [number]:
            parsed.numbers.append(number)
        if number != PAGE_DATA:
            parsed.bodies[number] = body
            continue
        count, reserved = struct.unpack_from("<II", body)
        entries = struct.unpack_from(f"<{count}Q", body, 8)
        nr_pages = sum(entry >> 60 != XTAB for entry in entries)
        assert 1 <= count <= 1024
        assert reserved == 0
        assert len(body) == 8 + 8 * count + PAGE_SIZE * nr_pages
        parsed.entries.extend(entries)
        first = 8 + 8 * count
        parsed.pages.extend(body[at : at + PAGE_SIZE] for at in range(first, len(body), PAGE_SIZE))
    assert image[position:] == bytes(8)  # libxl END, and nothing after it
    return parsed


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    path = tmp_path_factory.mktemp("bench") / "mixed.save"
    return path, make(path)


@pytest.fixture(scope="module")
def parsed(mixed: tuple[Path, dict[str, float]]) -> Parsed:
    image = mixed[0].read_bytes()
    return parse(image, libxl_start(image))


def test_image_has_the_records_of_a_pvh_guest_in_the_order_xen_writes_them(parsed: Parsed) -> None:
    assert parsed.numbers == [0x11, 0x12, 0x10, PAGE_DATA, 0x08, HVM_CONTEXT, HVM_PARAMS, 0]
    assert parsed.bodies[HVM_CONTEXT] == (GOLDEN / "xen.hvm.context.pvh.bin").read_bytes()
    assert parsed.bodies[HVM_PARAMS] == (GOLDEN / "xen.hvm.params.pvh.bin").read_bytes()


def test_pfns_go_up_through_holes_to_the_special_pages(parsed: Parsed) -> None:
    pfns = [entry & (1 << 52) - 1 for entry in parsed.entries]
    absent = {pfn for pfn, entry in zip(pfns, parsed.entries, strict=True) if entry >> 60 == XTAB}
    assert pfns == sorted(set(pfns))
    assert pfns[: RAM // PAGE_SIZE] == list(range(RAM // PAGE_SIZE))
    assert {0xA0, 0xBF} <= absent
    assert pfns[-1] == 0xFEFFF
    assert pfns[-1] not in absent


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    tmp_path: Path, mixed: tuple[Path, dict[str, float]]
) -> None:
    again, other = tmp_path / "again.save", tmp_path / "other.save"
    make(again)
    make(other, "--seed", "2")
    assert again.read_bytes() == mixed[0].read_bytes()
    assert other.read_bytes() != again.read_bytes()


def test_mixed_has_the_shares_of_real_guests(
    mixed: tuple[Path, dict[str, float]], parsed: Parsed
) -> None:
    filled = [page for page in parsed.pages if any(page)]
    zero_share = 1 - len(filled) / len(parsed.pages)
    duplicate_share = 1 - len(set(filled)) / len(filled)
    assert zero_share == pytest.approx(0.47, abs=0.08)
    assert duplicate_share == pytest.approx(0.27, abs=0.03)
    facts = mixed[1]
    assert facts["zero_share"] == pytest.approx(zero_share, abs=1e-4)
    assert facts["duplicate_share"] == pytest.approx(duplicate_share, abs=1e-4)
    assert facts["duplicate_share_near"] == pytest.approx(duplicate_share, abs=0.01)
    assert facts["nr_pages"] == len(parsed.pages)
    assert 3.0 < facts["zstd_ratio_distinct"] < 4.0


def test_distinct_has_neither_zero_pages_nor_duplicates(tmp_path: Path) -> None:
    facts = make(tmp_path / "image", "--content", "distinct")
    assert facts["zero_share"] == facts["duplicate_share"] == 0
    assert facts["zstd_ratio_all"] > 3.0


def test_later_a_quarter_of_the_pages_have_changed_a_little(
    tmp_path: Path, mixed: tuple[Path, dict[str, float]], parsed: Parsed
) -> None:
    make(tmp_path / "later.save", "--later")
    image = (tmp_path / "later.save").read_bytes()
    later = parse(image, libxl_start(image))
    assert (later.entries, later.bodies) == (parsed.entries, parsed.bodies)
    before, after = (np.frombuffer(b"".join(one.pages), np.uint64) for one in (parsed, later))
    changed = np.count_nonzero((before != after).reshape(-1, 512), axis=1)
    filled = np.bitwise_or.reduce(before.reshape(-1, 512), axis=1) != 0
    assert not changed[~filled].any()
    shares = [np.mean(found[filled]) for found in (changed == 0, changed == 16, changed > 500)]
    assert np.allclose(shares, (0.74, 0.25, 0.01), atol=0.02)


def test_passes_send_each_page_again_a_little_changed(tmp_path: Path, parsed: Parsed) -> None:
    make(tmp_path / "passes.save", "--passes", "3")
    image = (tmp_path / "passes.save").read_bytes()
    found = parse(image, libxl_start(image))
    words = np.frombuffer(b"".join(found.pages), np.uint64).reshape(3, -1, 512)
    assert words[0].tobytes() == b"".join(parsed.pages)
    filled = np.bitwise_or.reduce(words[0], axis=1) != 0
    for before, after in itertools.pairwise(words):
        changed = np.count_nonzero(before != after, axis=1)
        assert set(changed[filled].tolist()) <= {5, 6}
        assert not changed[~filled].any()


def test_random_does_not_compress(tmp_path: Path) -> None:
    facts = make(tmp_path / "image", "--content", "random", size_bytes=4 * MIB)
    assert facts["zstd_ratio_all"] <= 1.01


def test_libxl_form_is_the_xl_form_without_its_header(
    tmp_path: Path, mixed: tuple[Path, dict[str, float]]
) -> None:
    path = tmp_path / "image.libxl"
    make(path, "--format", "libxl")
    image = mixed[0].read_bytes()
    assert path.read_bytes() == image[libxl_start(image) :]


def test_image_goes_to_standard_output(mixed: tuple[Path, dict[str, float]]) -> None:
    argv = (sys.executable, str(MAKE_IMAGE), "--no-measure", "--size", str(RAM), "-")
    done = subprocess.run(argv, capture_output=True, check=True)
    assert done.stdout == mixed[0].read_bytes()
    assert done.stderr == b""


def test_a_guest_above_4_gib_goes_around_the_hole_below(load_bench: LoadBench) -> None:
    make_image = load_bench("make_image")
    nr_ram = 0xF0000 + 3 * 1024 + 5
    entries = np.concatenate(list(make_image.entries_of(nr_ram)))
    pfns = entries & np.uint64((1 << 52) - 1)
    present = pfns[entries >> np.uint64(60) == 0]
    assert np.array_equal(pfns, np.arange(0x100000 + 3 * 1024 + 5))
    assert not np.any((present >= 0xF0000) & (present < 0xFEFF0))
    assert np.array_equal(
        present[present >= 0x100000], np.arange(0x100000, 0x100000 + 3 * 1024 + 5)
    )
