"""Legacy images and containers, cut and changed: one error of ours, or a right answer.

Small ones of each container, of which the files of the fuzz targets are made. A legacy stream
has no checksums, so that a changed one is often another one that is right; what may not be is
anything but a StreamError, or a PluginError for a record that is not here.
"""

from __future__ import annotations

import contextlib
import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xsave
from tests.fuzz.targets import CORPUS
from xsave import PluginError, StreamError

IMAGES = {
    f"{path.parent.name} {path.stem}": path.read_bytes()
    for target in ("legacy", "xapi", "libvirt")
    for path in sorted((CORPUS / target).iterdir())
}
each = pytest.mark.parametrize("name", IMAGES)


def verify(data: bytes, manager: xsave.PluginManager, *, fast: bool = False) -> None:
    xsave.verify(io.BytesIO(data), fast=fast, workers=1, manager=manager)


def may_end_at(data: bytes) -> set[int]:
    """Where an image could have ended too: before what was said behind its stream, and before
    the device model's state."""
    words = (b"domain is yours", b"DeviceModelRecord0002", b"QemuDeviceModelRecord")
    return {data.find(word) for word in words} - {-1}


@each
def test_an_image_cut_anywhere_is_refused(name: str, manager: xsave.PluginManager) -> None:
    """Every place near the ends, and a sample of the others; no cut is taken for an image but
    where one could have ended."""
    data = IMAGES[name]
    verify(data, manager)
    places = random.Random(name).sample(range(len(data)), 150)
    taken = []
    for size in sorted({*range(80), *range(len(data) - 80, len(data)), *places}):
        for fast in (False, True):
            try:
                verify(data[:size], manager, fast=fast)
            except StreamError:
                continue
            taken.append(size)
    if name == "legacy remus":  # behind each round
        assert len(set(taken)) <= 1, taken
    else:
        assert set(taken) <= may_end_at(data), taken


@each
def test_trailing_bytes_are_refused(name: str, manager: xsave.PluginManager) -> None:
    """But where what is there goes on to the end of the file, as xend has it."""
    for more in (b"\0", b"\xff" * 9, IMAGES[name]):
        if name == "legacy xend":
            verify(IMAGES[name] + more, manager)
            continue
        with pytest.raises(StreamError):
            verify(IMAGES[name] + more, manager)


@each
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_changed_bytes_never_break_anything(
    name: str, manager: xsave.PluginManager, data: st.DataObject
) -> None:
    image = bytearray(IMAGES[name])
    for at in data.draw(st.lists(st.integers(0, len(image) - 1), min_size=1, max_size=4)):
        image[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(StreamError, PluginError):
        verify(bytes(image), manager, fast=data.draw(st.booleans()))


@each
def test_every_flipped_bit_of_the_beginning_is_an_answer(
    name: str, manager: xsave.PluginManager
) -> None:
    """Where sizes, widths and kinds of guest stand."""
    image = bytearray(IMAGES[name])
    for at in range(min(len(image), 160)):
        bit = 1 << (at % 8)
        image[at] ^= bit
        with contextlib.suppress(StreamError, PluginError):
            verify(bytes(image), manager)
        image[at] ^= bit


@settings(max_examples=200, deadline=None)
@given(
    head=st.sampled_from([data[:200] for data in IMAGES.values()]),
    cut=st.integers(1, 200), rest=st.binary(max_size=300),
)  # fmt: skip
def test_garbage_behind_a_beginning_is_refused(
    head: bytes, cut: int, rest: bytes, manager: xsave.PluginManager
) -> None:
    with pytest.raises(StreamError):
        verify(head[:cut] + rest, manager)
