"""Make a valid xl image of any size, for measuring: streaming, fast, the same from the same seed.

    python tests/bench/make_image.py --size 4G --content mixed big.save

The image is that of a PVH guest saved by Xen 4.17: xl header and JSON configuration,
libxl header, LIBXC_CONTEXT, libxc v3 with policies, PAGE_DATA in batches of 1024 (with
absent pfns), TSC_INFO, HVM_CONTEXT, HVM_PARAMS and the two END records. HVM_CONTEXT and
HVM_PARAMS are real ones (tests/golden/records), the policies small ones made here.

Only raw 64-bit words are drawn from the random generator, and everything else is made
from those by tables: numpy promises that such words stay the same, not that its
distributions do.
"""

from __future__ import annotations

import argparse
import importlib
import json
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from attrs import define, field, frozen
from numpy.typing import NDArray

Bytes2D = NDArray[np.uint8]  # (n, 4096): pages
Words = NDArray[np.uint64]

PAGE_SIZE = 4096
BATCH = 1024  # entries in a PAGE_DATA record, as Xen packs them
XTAB = np.uint64(0xF << 60)
MIB = 1 << 20

VGA_HOLE = (0xA0, 0xC0)  # pfns
MMIO_START, MMIO_END = 0xF0000, 0x100000
P2M_SIZE = 0xFF000  # one past the special pages, as in the real images
NR_SPECIAL = 16  # pages the toolstack populates just below P2M_SIZE
BALLOONED = (64, 64)  # in every 64th batch of low RAM, so many entries are absent

XL_MAGIC = b"Xen saved domain, xl format\n \0 \r"
RECORD_HEADER = struct.Struct("<II")
(
    END, PAGE_DATA, TSC_INFO, HVM_CONTEXT, HVM_PARAMS, STATIC_DATA_END, CPUID_POLICY, MSR_POLICY,
) = 0x00, 0x01, 0x08, 0x09, 0x0A, 0x10, 0x11, 0x12  # fmt: skip
LIBXL_END, LIBXC_CONTEXT = 0, 1

GOLDEN_RECORDS = Path(__file__).resolve().parent.parent / "golden" / "records"


# What the pages hold ---------------------------------------------------------------------


@frozen
class Content:
    """Shares of the pages, 0 to 1.

    :ivar zero: of all pages.
    :ivar duplicate: of the pages that are not zero.
    :ivar far: of the duplicates, those whose first copy lies beyond NEAR distinct pages.
    :ivar poison: of the duplicates, those that hold one byte all over (freed kernel text
        is filled with 0xCC), which any compressor reduces to nothing.
    :ivar classes: name and weight of what the rest is drawn from.
    """

    zero: float = 0.0
    duplicate: float = 0.0
    far: float = 0.0
    poison: float = 0.0
    classes: tuple[tuple[str, float], ...] = ()


# Weights chosen so that zstd 1 makes about 3.5 of the distinct pages and lz4 about 2.6;
# as in the real images there are many pages of regular structures, many of code, and few
# in between.
GUEST_CLASSES = (
    ("structures", 0.53), ("text", 0.17), ("pointers", 0.14), ("code", 0.13), ("random", 0.03),
)  # fmt: skip

CONTENTS = {
    # Between the real images (37-51 % zero, 24-28 % duplicates); 39 % of the pages are left
    # to be stored, where the two larger real images have 47 and 37.
    "mixed": Content(zero=0.47, duplicate=0.27, far=0.006, poison=0.1, classes=GUEST_CLASSES),
    # what the duplicates of the small real guests are: 96 of 100 are poison
    "idle": Content(zero=0.47, duplicate=0.27, far=0.006, poison=0.96, classes=GUEST_CLASSES),
    "distinct": Content(classes=GUEST_CLASSES),
    "random": Content(classes=(("random", 1.0),)),
}

NEAR = 1024  # distinct pages; nearly all duplicates in real images are found this near
FAR = 8192
ZERO_RUN = 80  # pages, mean length of a run of zero pages in the real images
CLASS_RUN = 8  # distinct pages of one class in a row
KERNEL_MAP = np.uint64(0xFFFF888000000000)  # where Linux maps all memory


class Draws:
    """Raw random words, and simple things made of them."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.SFC64(seed)

    def raw(self, count: int) -> Words:
        return self._bits.random_raw(count)

    def u32(self, count: int) -> NDArray[np.uint32]:
        return self.raw(-(-count // 2)).view(np.uint32)[:count]

    def u16(self, count: int) -> NDArray[np.uint16]:
        return self.raw(-(-count // 4)).view(np.uint16)[:count]

    def chance(self, count: int, share: float) -> NDArray[np.bool_]:
        """(count,) bool, each true with that chance, in steps of 2**-32."""
        return self.u32(count) < np.uint64(int(share * (1 << 32)))

    def below(self, count: int, limit: int) -> NDArray[np.int64]:
        """(count,) integers from 0 to limit - 1; limit at most 2**32."""
        return (self.u32(count).astype(np.uint64) * np.uint64(limit) >> np.uint64(32)).astype(
            np.int64
        )

    def pick(self, count: int, table: NDArray[Any]) -> NDArray[Any]:
        """(count,) items of a table of 65536."""
        return table[self.u16(count)]


def _skewed(draws: Draws, items: NDArray[Any], power: float) -> NDArray[Any]:
    """A table of 65536 in which early items stand more often, by rank ** -power."""
    weights = np.arange(1, len(items) + 1, dtype=np.float64) ** -power
    ends = np.floor(np.cumsum(weights / weights.sum()) * 65536).astype(np.int64)
    return items[np.minimum(np.searchsorted(ends, np.arange(65536), "right"), len(items) - 1)]


class PageMaker:
    """Pages of each class. No match longer than a few words goes from page to page, as
    in real memory, where a long window finds nothing that a short one does not, except
    for duplicates."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        letters = np.frombuffer(b"eeeetaoinshrdlucmfwypvbgk, \n_.:;=-", np.uint8)
        words = letters[draws.below(2048 * 8, len(letters))].reshape(2048, 8)
        words[:, -1] = ord(" ")
        self._words = _skewed(draws, words.copy().view(np.uint64).ravel(), 1.0)
        self._sequences = _skewed(draws, draws.raw(8192), 1.0)

    def make(self, name: str, count: int) -> Bytes2D:
        maker: Callable[[int], NDArray[Any]] = getattr(self, f"_{name}")
        return maker(count).view(np.uint8).reshape(count, PAGE_SIZE)

    def _random(self, count: int) -> Words:
        return self._draws.raw(count * 512)

    def _text(self, count: int) -> Words:
        """Words of eight letters, the common ones often."""
        words: Words = self._draws.pick(count * 512, self._words)
        words[::512] = self._draws.raw(count)  # no two pages are the same
        return words

    def _code(self, count: int) -> Words:
        """Sequences of eight bytes, some often; every fourth has an operand of its own."""
        draws = self._draws
        words: Words = draws.pick(count * 512, self._sequences)
        operands = draws.u32(-(-len(words) // 4)).astype(np.uint64)
        words[::4] = (words[::4] & np.uint64(0xFFFFFFFFFF)) ^ (operands << np.uint64(40))
        words[::512] ^= draws.raw(count)  # no two pages are the same
        return words

    def _pointers(self, count: int) -> Words:
        """Zeros, small numbers, and pointers into a neighbourhood of each page."""
        draws = self._draws
        low = draws.u16(count * 512).astype(np.uint64)
        kind = draws.u16(count * 512)
        near = np.repeat(draws.raw(count) & np.uint64(0xFFFF00000), 512) | KERNEL_MAP
        words = np.where(kind < 22000, np.uint64(0), near + (low << np.uint64(4)))
        small = kind > 52000
        words[small] = low[small] & np.uint64(0xFF)
        return words

    def _structures(self, count: int) -> Words:
        """64 records of 64 bytes, alike but for an address that goes up and two fields."""
        draws = self._draws
        page = np.repeat(draws.raw(count * 8).reshape(count, 1, 8), 64, axis=1)
        page[:, :, 2:4] = 0
        page[:, :, 6] = 0
        index = np.arange(64, dtype=np.uint64)
        page[:, :, 1] = (
            (page[:, :, 1] & np.uint64(0xFFFFFFF000)) + KERNEL_MAP + (index << np.uint64(6))
        )
        page[:, :, 5] = draws.u16(count * 64).reshape(count, 64)
        page[:, :, 7] += draws.u32(count * 64).reshape(count, 64) & np.uint32(0xFF)
        return page.ravel()


class Guest:
    """The pages of a guest in ascending order, batch by batch."""

    def __init__(self, content: Content, seed: int) -> None:
        self._content = content
        self._draws = Draws(seed)
        self._maker = PageMaker(self._draws)
        self._ring = np.zeros((FAR + 2 * BATCH, PAGE_SIZE), np.uint8)  # latest distinct pages
        self._nr_distinct = 0
        self._in_zero_run = False

    def take(self, count: int) -> Bytes2D:
        """The next (count, 4096), count at most BATCH."""
        pages = np.zeros((count, PAGE_SIZE), np.uint8)
        filled = np.flatnonzero(~self._zero_pages(count))
        if not len(filled):
            return pages
        again = self._draws.chance(len(filled), self._content.duplicate)
        poison = again & self._draws.chance(len(filled), self._content.poison)
        distance = self._distances(len(filled))
        before = self._nr_distinct + np.cumsum(~again) - ~again
        again &= poison | (before > 0)  # the very first page is no duplicate
        before = self._nr_distinct + np.cumsum(~again) - ~again
        distance = np.where(distance > before, distance % np.maximum(before, 1) + 1, distance)
        self._make_distinct(int(np.count_nonzero(~again)))
        number = np.where(again, np.maximum(before - distance, 0), before)
        pages[filled] = self._ring[number % len(self._ring)]
        pages[filled[poison]] = 0xCC
        return pages

    def _zero_pages(self, count: int) -> NDArray[np.bool_]:
        """Runs of zero and of other pages that go on from batch to batch."""
        share = self._content.zero
        if not share:
            return np.zeros(count, np.bool_)
        stop = self._draws.chance(count, 1 / ZERO_RUN)
        start = self._draws.chance(count, share / (1 - share) / ZERO_RUN)
        zero = np.empty(count, np.bool_)
        position = 0
        while position < count:  # once per run, not per page
            ends = np.flatnonzero((stop if self._in_zero_run else start)[position:])
            length = int(ends[0]) + 1 if len(ends) else count - position
            zero[position : position + length] = self._in_zero_run
            position += length
            if len(ends):
                self._in_zero_run = not self._in_zero_run
        return zero

    def _distances(self, count: int) -> NDArray[np.int64]:
        """How many distinct pages back the first copy of a duplicate lies, from 1."""
        near = self._draws.below(count, NEAR) + 1
        far = self._draws.below(count, FAR - NEAR) + NEAR + 1
        return np.where(self._draws.chance(count, self._content.far), far, near)

    def _make_distinct(self, count: int) -> None:
        nr_runs = -(-count // CLASS_RUN)
        drawn = self._draws.u16(nr_runs) / 65536
        classes = self._content.classes
        ends = np.cumsum([weight for _, weight in classes])
        chosen = np.minimum(np.searchsorted(ends, drawn, "right"), len(classes) - 1)
        chosen = np.repeat(chosen, CLASS_RUN)[:count]
        slots = (self._nr_distinct + np.arange(count)) % len(self._ring)
        for index, (name, _) in enumerate(classes):
            rows = slots[chosen == index]
            if len(rows):
                self._ring[rows] = self._maker.make(name, len(rows))
        self._nr_distinct += count


# The same guest later: of its pages that are not zero.
EDITED = 0.25  # so many have some words changed
EDITED_WORDS = 16  # as many as the workloads of simulated guests change
REPLACED = 0.01  # and so many are others altogether
# Of each page that comes again in a pass: what changed of it packs to about 55 bytes.
TOUCHED_WORDS = 6


def edit(pages: Bytes2D, draws: Draws) -> None:
    """Make them, in place, what they are some time later."""
    filled = filled_rows(pages)
    words = pages.view(np.uint64)
    rows = filled[draws.chance(len(filled), EDITED)]
    first = draws.below(len(rows), 512 - EDITED_WORDS)
    columns = first[:, None] + np.arange(EDITED_WORDS)
    words[rows[:, None], columns] = draws.raw(columns.size).reshape(columns.shape)
    rows = filled[draws.chance(len(filled), REPLACED)]
    words[rows] = draws.raw(512 * len(rows)).reshape(-1, 512)


def touch(pages: Bytes2D, draws: Draws) -> None:
    """Change each page that is not zero a little, in place, always in the same spot: so it stays
    as compressible as it was."""
    rows = filled_rows(pages)
    columns = (rows * 61 % (512 - TOUCHED_WORDS))[:, None] + np.arange(TOUCHED_WORDS)
    words = pages.view(np.uint64)
    words[rows[:, None], columns] = draws.raw(columns.size).reshape(columns.shape)


def filled_rows(pages: Bytes2D) -> NDArray[np.intp]:
    return np.flatnonzero(np.bitwise_or.reduce(pages.view(np.uint64), axis=1))


# What was made ---------------------------------------------------------------------------


def _module(*names: str) -> Any:
    """The first of these modules that is there, or None."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


@define
class Mix:
    """Counts of what the pages hold, taken from the pages and not from the recipe.

    Compression is measured on the 4 MiB batches by themselves, on every sixteenth of them.
    """

    nr_pages: int = 0
    nr_zero: int = 0
    nr_absent: int = 0
    nr_duplicate: int = 0
    nr_duplicate_near: int = 0
    _seen: set[bytes] = field(factory=set)
    _stored: dict[bytes, int] = field(factory=dict)
    _nr_stored: int = 0
    _nr_batches: int = 0
    _sizes: dict[str, list[int]] = field(factory=dict)  # before, after

    def add(self, pages: Bytes2D, nr_absent: int) -> None:
        self.nr_absent += nr_absent
        self.nr_pages += len(pages)
        if not len(pages):
            return
        zero = np.bitwise_or.reduce(pages.view(np.uint64), axis=1) == 0
        self.nr_zero += int(np.count_nonzero(zero))
        filled = pages[~zero]
        fresh = [index for index, page in enumerate(filled) if self._is_new(page)]
        if len(filled) and self._nr_batches % 16 == 0:
            self._compress("zstd_ratio_all", "zstd", pages)
            self._compress("zstd_ratio_distinct", "zstd", filled[fresh])
            self._compress("lz4_ratio_distinct", "lz4", filled[fresh])
        self._nr_batches += bool(len(filled))

    def _is_new(self, page: NDArray[np.uint8]) -> bool:
        digest = xxhash.xxh3_128_digest(page.data)
        new = digest not in self._seen
        self.nr_duplicate += not new
        self._seen.add(digest)
        stored = self._stored.get(digest)
        if stored is not None and self._nr_stored - stored <= NEAR:
            self.nr_duplicate_near += 1
        else:
            self._stored[digest] = self._nr_stored
            self._nr_stored += 1
        return new

    def _compress(self, what: str, codec: str, pages: Bytes2D) -> None:
        if codec == "zstd":
            module = _module("compression.zstd", "backports.zstd")
            packed = module and len(module.compress(pages.data, 1))
        else:
            module = _module("lz4.frame")
            packed = module and len(module.compress(pages.data))
        if packed and len(pages):
            before_after = self._sizes.setdefault(what, [0, 0])
            before_after[0] += pages.nbytes
            before_after[1] += packed

    def facts(self) -> dict[str, float | int]:
        """Shares and ratios; a ratio is left out where its codec is not installed."""
        filled = max(self.nr_pages - self.nr_zero, 1)
        found: dict[str, float | int] = {
            "nr_pages": self.nr_pages,
            "nr_absent": self.nr_absent,
            "zero_share": round(self.nr_zero / max(self.nr_pages, 1), 4),
            "duplicate_share": round(self.nr_duplicate / filled, 4),
            "duplicate_share_near": round(self.nr_duplicate_near / filled, 4),
        }
        for what, (before, after) in sorted(self._sizes.items()):
            found[what] = round(before / after, 2)
        return found


# The image -------------------------------------------------------------------------------


def record(number: int, body: bytes = b"") -> bytes:
    """A libxc or libxl record: header, body, zeros up to a multiple of eight."""
    return RECORD_HEADER.pack(number, len(body)) + body + bytes(-len(body) % 8)


def xl_header(size_bytes: int) -> bytes:
    """With the little of a configuration that a tool may look at."""
    config = {
        "c_info": {
            "type": "pvh",
            "name": "bench",
            "uuid": "7c6fbd0e-0a1d-4d43-9ab0-5f2b0a5b7c11",
        },
        "b_info": {
            "max_vcpus": 1,
            "max_memkb": size_bytes // 1024,
            "target_memkb": size_bytes // 1024,
            "type.pvh": {},
        },
    }
    text = json.dumps(config, indent=4).encode() + b"\n\0"
    optional = struct.pack("<I", len(text)) + text
    return XL_MAGIC + struct.pack("<4I", 0x01020304, 3, 0, len(optional)) + optional


def cpuid_policy() -> bytes:
    """A few leaves: leaf, subleaf (all ones for none), a, b, c, d."""
    none = 0xFFFFFFFF
    leaves = (
        (0x00000000, none, 0x0D, 0x68747541, 0x444D4163, 0x69746E65),
        (0x00000001, none, 0x00830F10, 0x00010800, 0x76DA3203, 0x178BFBFF),
        (0x00000007, 0, 0, 0x219C95A9, 0, 0),
        (0x80000000, none, 0x80000008, 0x68747541, 0x444D4163, 0x69746E65),
        (0x80000001, none, 0x00830F10, 0, 0x000001F3, 0x2C100800),
        (0x80000008, none, 0x00003030, 0, 0, 0),
    )
    return b"".join(struct.pack("<6I", *leaf) for leaf in leaves)


def msr_policy() -> bytes:
    """MSR_INTEL_PLATFORM_INFO and MSR_ARCH_CAPABILITIES, both zero."""
    return struct.pack("<IIQ", 0xCE, 0, 0) + struct.pack("<IIQ", 0x10A, 0, 0)


def entries_of(nr_ram: int) -> Iterator[Words]:
    """PAGE_DATA entries by batches: a guest with so many pages of RAM.

    As in a real image, pfns go up, holes are named, and the special pages lie just below
    4 GiB. Unlike there, the hole of a small guest is not named from its beginning (its
    million entries would outweigh the guest), but in proportion to the RAM.
    """
    low_end = min(nr_ram, MMIO_START)
    nr_hole = min(max(nr_ram // 16 // BATCH, 1) * BATCH, P2M_SIZE - MMIO_START)
    hole_end = P2M_SIZE if nr_ram <= MMIO_START else MMIO_END
    for first in range(0, low_end, BATCH):
        entries = np.arange(first, min(first + BATCH, low_end), dtype=np.uint64)
        if first == 0:
            entries[slice(*VGA_HOLE)] |= XTAB
        elif first // BATCH % BALLOONED[0] == 1:
            entries[: BALLOONED[1]] |= XTAB
        yield entries
    for first in range(P2M_SIZE - nr_hole, hole_end, BATCH):
        entries = np.arange(first, first + BATCH, dtype=np.uint64)
        special = (entries >= P2M_SIZE - NR_SPECIAL) & (entries < P2M_SIZE)
        entries[~special] |= XTAB
        yield entries
    for first in range(MMIO_END, MMIO_END + nr_ram - low_end, BATCH):
        end = min(first + BATCH, MMIO_END + nr_ram - low_end)
        yield np.arange(first, end, dtype=np.uint64)


def page_data(entries: Words, pages: Bytes2D) -> Iterator[bytes | memoryview]:
    yield struct.pack("<4I", PAGE_DATA, 8 + entries.nbytes + pages.nbytes, len(entries), 0)
    yield entries.data.cast("B")
    yield pages.data.cast("B") if len(pages) else b""


def golden(records: Path, name: str) -> bytes:
    path = records / f"{name}.bin"
    if not path.exists():
        raise SystemExit(f"{path} is missing: a real record is needed; --records names a folder")
    return path.read_bytes()


def image_parts(
    size_bytes: int, content: Content, seed: int, records: Path, mix: Mix | None, *, xl: bool,
    later: bool = False, passes: int = 1,
) -> Iterable[bytes | memoryview]:  # fmt: skip
    """All bytes of the image, in pieces.

    :param size_bytes: of the guest's RAM, a multiple of the page size; the image is
        larger by the entries and the headers.
    :param xl: with the header of an xl file, else from the libxl header on.
    :param later: of the same guest some time later: see :func:`edit`.
    :param passes: over its memory, as a guest is saved that writes to each of its pages
        between one pass and the next. More than one keep the guest in memory.
    """
    context, params = golden(records, "xen.hvm.context.pvh"), golden(records, "xen.hvm.params.pvh")
    if xl:
        yield xl_header(size_bytes)
    yield struct.pack(">8sII", b"LibxlFmt", 2, 0)
    yield record(LIBXC_CONTEXT)
    yield struct.pack(">QIIHHI", (1 << 64) - 1, 0x58454E46, 3, 0, 0, 0)
    yield struct.pack("<IHHII", 2, 12, 0, 4, 17)
    yield record(CPUID_POLICY, cpuid_policy())
    yield record(MSR_POLICY, msr_policy())
    yield record(STATIC_DATA_END)
    guest = Guest(content, seed)
    edits = Draws(~seed & 0xFFFF_FFFF)
    kept: list[tuple[Words, Bytes2D]] = []
    for entries in entries_of(size_bytes // PAGE_SIZE):
        nr_present = int(np.count_nonzero(entries < XTAB))
        pages = guest.take(nr_present)
        if later:
            edit(pages, edits)
        if mix is not None:
            mix.add(pages, len(entries) - nr_present)
        yield from page_data(entries, pages)
        if passes > 1 and nr_present:
            kept.append((entries, pages))
    for _ in range(1, passes):
        for entries, pages in kept:
            touch(pages, edits)
            yield from page_data(entries, pages)
    yield record(TSC_INFO, struct.pack("<IIQII", 2, 0, 0, 0, 0))
    yield record(HVM_CONTEXT, context)
    yield record(HVM_PARAMS, params)
    yield record(END)
    yield record(LIBXL_END)


# The command -----------------------------------------------------------------------------


def parse_size(text: str) -> int:
    """``4G``, ``64M``, ``512K`` or bytes, in powers of 1024."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    factor = units.get(text[-1:].upper(), 1)
    number = text[:-1] if factor > 1 else text
    return int(float(number) * factor)


def write_image(
    out: BinaryIO, size_bytes: int, content: Content, seed: int, records: Path, *, xl: bool,
    measure: bool = True, later: bool = False, passes: int = 1,
) -> Mix | None:  # fmt: skip
    mix = Mix() if measure else None
    for part in image_parts(
        size_bytes, content, seed, records, mix, xl=xl, later=later, passes=passes
    ):
        out.write(part)
    return mix


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a valid xl image of any size.")
    parser.add_argument("out", help="file, or - for standard output")
    parser.add_argument("--size", type=parse_size, default=parse_size("64M"), help="of the RAM: 4G")
    parser.add_argument("--content", choices=sorted(CONTENTS), default="mixed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--format", choices=("xl", "libxl"), default="xl")
    parser.add_argument(
        "--later", action="store_true",
        help="the guest of the same seed some time later: a quarter of its pages changed a little",
    )  # fmt: skip
    parser.add_argument(
        "--passes", type=int, default=1,
        help="over memory, all of whose pages change a little between one pass and the next",
    )  # fmt: skip
    parser.add_argument(
        "--records", type=Path, default=GOLDEN_RECORDS,
        help="folder with xen.hvm.context.pvh.bin and xen.hvm.params.pvh.bin",
    )  # fmt: skip
    parser.add_argument("--no-measure", action="store_true", help="do not examine what is made")
    parser.add_argument("--json", action="store_true", help="print the mix as JSON")
    arguments = parser.parse_args()
    if arguments.size < MIB or arguments.size % PAGE_SIZE:
        parser.error(f"--size: expected at least 1M and a multiple of {PAGE_SIZE} bytes")
    return arguments


def main() -> None:
    """The mix goes to standard error, as the image may go to standard output."""
    arguments = parse_arguments()
    with sys.stdout.buffer if arguments.out == "-" else Path(arguments.out).open("wb") as out:
        mix = write_image(
            out, arguments.size, CONTENTS[arguments.content], arguments.seed, arguments.records,
            xl=arguments.format == "xl", measure=not arguments.no_measure, later=arguments.later,
            passes=arguments.passes,
        )  # fmt: skip
    if mix is None:
        return
    facts = {"content": arguments.content, "seed": arguments.seed, **mix.facts()}
    if arguments.json:
        print(json.dumps(facts), file=sys.stderr)
    else:
        for name, value in facts.items():
            print(f"{name:24} {value}", file=sys.stderr)


if __name__ == "__main__":
    main()
