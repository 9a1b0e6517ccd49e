"""Any image, cut, lengthened, changed or made up: one error of ours, or a right answer.

What is meant by an error of ours: a StreamError, whose exit code says "bad image". Nothing
else may come out of ``verify``, whatever bytes go in. The one exception is a record or codec
that a changed image says belongs to a plugin that is not here: a PluginError.
"""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xsave
from tests.plugins.xen_stream import build as b
from tests.robustness.images import Images, kind_of, native, small_pieces
from xsave import AuthenticityError, PluginError, StreamError
from xsave.testing import MemoryPipe, MemorySource
from xsave_plugins.native.format import MAGIC, NativeFormat
from xsave_plugins.native.reader import NativeReader

MAGICS = {
    "xl": b.xl_header()[:32],
    "libxl": b"LibxlFmt",
    "libxc": b"\xff" * 8 + b"XENF",
    "native": MAGIC,
    "zstd": b"\x28\xb5\x2f\xfd",
    "lz4": b"\x04\x22\x4d\x18",
}
NAMES = ["xl", "libxl", "libxc", "native none", "native zstd", "native lz4", "native brotli:1"]


def verify(data: bytes, manager: xsave.PluginManager, *, fast: bool = False) -> None:
    xsave.verify(io.BytesIO(data), fast=fast, workers=1, manager=manager)


def events(data: bytes, name: str, manager: xsave.PluginManager) -> list[tuple[str, int]]:
    """Name and offset of each."""
    mode = xsave.PageMode.SKIP
    options = xsave.ReadOptions(mode, manager.codecs.items(), xsave.Workers(1))
    reader = manager.formats.find(name.split(maxsplit=1)[0]).reader(MemorySource(data), options)
    return [(event.name, event.offset) for event in reader]


@pytest.mark.parametrize("name", NAMES)
def test_an_image_cut_anywhere_is_refused(
    name: str, images: Images, manager: xsave.PluginManager
) -> None:
    data = images[name]
    places = events(data, name, manager)
    # A captured Remus stream is whole where its connection broke after a checkpoint.
    closing = {"libxc": "xen.libxc.checkpoint", "libxl": "xen.libxl.checkpoint_end"}.get(name)
    captured = {at + 8 for what, at in places if what == closing}
    sizes = {at + near for _, at in places for near in (-1, 0, 1, 7, 8, 9)} | {len(data) - 1}
    sizes |= set(random.Random(name).sample(range(len(data)), 60))
    for size in sorted(size for size in sizes - captured if 0 <= size < len(data)):
        for fast in (False, True):
            with pytest.raises(StreamError):
                verify(data[:size], manager, fast=fast)
    for size in captured:
        verify(data[:size], manager)


@pytest.mark.parametrize("name", NAMES)
def test_trailing_bytes_are_refused(
    name: str, images: Images, manager: xsave.PluginManager
) -> None:
    data = images[name]
    for more in (b"\0", b"\xff" * 9, bytes(4096), data):
        for fast in (False, True):
            with pytest.raises(StreamError, match="nothing after"):
                verify(data + more, manager, fast=fast)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=120, deadline=None)
@given(st.data())
def test_any_change_is_refused_or_a_change_of_contents(
    name: str, images: Images, manager: xsave.PluginManager, data: st.DataObject
) -> None:
    image = bytearray(images[name])
    where = st.integers(0, len(image) - 1)
    for at in data.draw(st.lists(where, min_size=1, max_size=4, unique=True)):
        image[at] ^= data.draw(st.integers(1, 255))
    fast = data.draw(st.booleans())
    try:
        verify(bytes(image), manager, fast=fast)
    except (StreamError, PluginError):
        return
    assert fast or not name.startswith("native"), "a changed native image was accepted"


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pieces_moved_doubled_or_dropped_never_break_anything(
    name: str, images: Images, manager: xsave.PluginManager, data: st.DataObject
) -> None:
    image = images[name]
    places = [at for _, at in events(image, name, manager)] + [len(image)]
    first, last = sorted(data.draw(st.tuples(st.sampled_from(places), st.sampled_from(places))))
    to = data.draw(st.sampled_from(places))
    piece = image[first:last]
    rest = image[:first] + image[last:] if data.draw(st.booleans()) else image
    changed = rest[:to] + piece + rest[to:]
    try:
        verify(changed, manager)
    except (StreamError, PluginError):
        return
    assert changed == image or not name.startswith("native")


@pytest.mark.parametrize("magic", MAGICS.values(), ids=MAGICS)
@settings(max_examples=60, deadline=None)
@given(rest=st.binary(max_size=400))
def test_garbage_with_a_magic_is_refused(
    magic: bytes, rest: bytes, manager: xsave.PluginManager
) -> None:
    for data in (magic + rest, magic[: len(rest)], magic + rest * 50):
        with pytest.raises(StreamError):
            verify(data, manager)


def refused(data: bytes) -> bool:
    options = xsave.ReadOptions(xsave.PageMode.FULL, {}, xsave.Workers(1))
    try:
        for _event in NativeReader(MemoryPipe(data), options):
            pass
    except StreamError:
        return True
    return False


def test_every_single_bit_of_a_native_image_matters() -> None:
    """Exhaustively: there is no bit that can change without being noticed."""
    image = native(small_pieces())
    assert not refused(image)
    assert len(image) < 2048
    changed = bytearray(image)
    unnoticed = []
    for at in range(len(image)):
        for bit in range(8):
            changed[at] ^= 1 << bit
            if not refused(bytes(changed)):
                unnoticed.append((at, bit))
            changed[at] ^= 1 << bit
    assert not unnoticed


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("native")])
def test_every_byte_of_a_larger_native_image_matters(
    name: str, images: Images, manager: xsave.PluginManager
) -> None:
    """One bit of a sample of the bytes, another sample each time."""
    image = bytearray(images[name])
    bits = random.Random()
    options = xsave.ReadOptions(xsave.PageMode.FULL, manager.codecs.items(), xsave.Workers(1))
    for at in bits.sample(range(len(image)), 1500):
        bit = 1 << bits.randrange(8)
        image[at] ^= bit
        with pytest.raises(StreamError):
            for _event in NativeFormat().reader(MemoryPipe(image), options):
                pass
        image[at] ^= bit


def test_damage_is_told_from_a_cut_and_from_a_forgery(images: Images) -> None:
    image = native(small_pieces())
    body = image.index(b"XENF")
    damaged = image[:body] + b"Y" + image[body + 1 :]
    options = xsave.ReadOptions(xsave.PageMode.FULL, {}, xsave.Workers(1))
    with pytest.raises(xsave.TruncatedError):
        list(NativeReader(MemoryPipe(image[:-1]), options))
    with pytest.raises(xsave.DamageError):
        list(NativeReader(MemoryPipe(damaged), options))
    forged = native([kind_of("xen.libxl.end", 0)], end={"seal": bytes(32)})
    with pytest.raises(AuthenticityError, match="seal"):
        list(NativeReader(MemoryPipe(forged), options))


def test_damage_names_the_pfns_it_hits(images: Images) -> None:
    image = bytearray(images["native none"])
    at = image.index(b.page(2)[:64])
    image[at] ^= 1
    with pytest.raises(xsave.DamageError, match=r"xen\.hvm\.page_data \(pfns 0x3-0x4\)"):
        options = xsave.ReadOptions(xsave.PageMode.FULL, {}, xsave.Workers(1))
        list(NativeReader(MemoryPipe(image), options))
