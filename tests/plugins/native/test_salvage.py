"""What comes out of a damaged image is what was put into it; what is lost is said to be."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xsave
from tests.plugins.native.batches import batch, ordinary, page
from tests.plugins.native.test_deltas import edited, pass_of
from tests.plugins.native.test_finder import CountedImage
from tests.plugins.native.test_writer import pieces, write
from xsave_plugins.codecs.zstd import ZstdCodec
from xsave_plugins.native import spec
from xsave_plugins.native.format import NativeFormat

ZSTD = ZstdCodec()
CHOICE = xsave.CodecChoice(ZSTD, 1)
OPTIONS = xsave.ReadOptions(codecs={"zstd": ZSTD})
NOTES = [
    xsave.Record(xsave.RecordType(f"acme.note{number}", 1, False), bytes([number]) * 100)
    for number in range(3)
]
# Pages stored, named from before, zero, and differences from pages sent earlier.
EVENTS: list[xsave.Event] = [
    NOTES[0],
    ordinary(0, [1, 2, 3, 0, 4]),
    ordinary(5, [5, 1, 6, 2]),
    NOTES[1],
    pass_of([edited(1, 7), page(2), edited(3, 9)]),
    pass_of([edited(1, 8), page(9), edited(3, 10)]),
    batch([(15, 7), (13, 8)], []),
    NOTES[2],
]


@functools.cache
def image(*, deltas: bool = True) -> bytes:
    return write(EVENTS, codec=CHOICE, codecs={"zstd": ZSTD}, deltas=deltas)


def salvage(data: bytes) -> tuple[list[xsave.Event], list[xsave.Loss]]:
    found = list(NativeFormat().salvage(CountedImage(data), OPTIONS))
    losses = [one for one in found if isinstance(one, xsave.Loss)]
    return [one for one in found if not isinstance(one, xsave.Loss)], losses


def mentions(events: Sequence[xsave.Event]) -> list[tuple[int, int, bytes | None]]:
    """Each mention of a pfn with its type and contents, in order."""
    found = []
    for event in events:
        if isinstance(event, xsave.Record):
            continue
        assert event.pages is not None
        pages = iter(event.pages)
        for entry in event.entries.tolist():
            kind = entry >> 60
            contents = next(pages).tobytes() if kind in xsave.TYPES_WITH_PAGE else None
            found.append((entry & (1 << 52) - 1, kind, contents))
    return found


WHOLE = mentions(EVENTS)


def is_part_of_the_whole(found: Sequence[tuple[int, int, bytes | None]]) -> bool:
    """The same mentions in the same order; some may be missing, others BROKEN."""
    rest = iter(WHOLE)
    return all(
        any(
            pfn == one[0] and (kind, contents) in ((one[1], one[2]), (xsave.BROKEN, None))
            for one in rest
        )
        for pfn, kind, contents in found
    )


@pytest.mark.parametrize("deltas", [True, False])
def test_of_a_whole_image_everything_is_saved(deltas: bool) -> None:
    events, losses = salvage(image(deltas=deltas))
    assert losses == []
    assert mentions(events) == WHOLE
    assert [bytes(e.body) for e in events if isinstance(e, xsave.Record)] == [
        bytes(note.body) for note in NOTES
    ]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_damaged_nothing_wrong_is_saved(data: st.DataObject) -> None:
    damaged = bytearray(image(deltas=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(400, len(damaged) - 1))
        size = data.draw(st.integers(1, 200))
        filler = data.draw(st.sampled_from([b"\0", b"\xff", b"xsvp"]))
        damaged[at : at + size] = (filler * size)[: len(damaged[at : at + size])]
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(400, len(damaged))) :]
    events, losses = salvage(bytes(damaged))
    found = mentions(events)
    assert is_part_of_the_whole(found)
    bodies = {bytes(event.body) for event in events if isinstance(event, xsave.Record)}
    assert bodies <= {bytes(note.body) for note in NOTES}
    if len(bodies) < len(NOTES) or found != WHOLE:
        assert losses


@settings(deadline=None)
@given(at=st.integers(0, 4000))
def test_a_cut_image_gives_what_came_before_the_cut(at: int) -> None:
    data = image()
    cut = data[: max(400, len(data) - at)]
    events, losses = salvage(cut)
    assert is_part_of_the_whole(mentions(events))
    assert bool(losses) == (len(cut) < len(data))


def test_what_lies_behind_damage_is_saved() -> None:
    data = bytearray(image())
    at = data.index(b"xsvp", data.index(b"acme.note0")) + 40
    data[at] ^= 1
    events, losses = salvage(bytes(data))
    assert len(losses) == 1
    assert bytes(events[-1].body) == bytes(NOTES[2].body)


def body_of(data: bytes, number: int) -> int:
    """Where the body of the n-th batch begins."""
    return [offset for _, offset in pieces(data, spec.PAGES)][number]


def test_of_a_batch_without_its_body_zero_and_earlier_pages_are_whole() -> None:
    data = bytearray(image(deltas=False))
    start = body_of(bytes(data), 1)
    data[start + 3] ^= 0x40
    events, losses = salvage(bytes(data))
    assert [loss.pfns for loss in losses] == [((5, 5), (7, 7))]
    assert losses[0].is_exact
    assert "is damaged: expected checksum" in losses[0].reason
    second = mentions(events)[5:9]
    assert [kind for _, kind, _ in second] == [xsave.BROKEN, 0, xsave.BROKEN, 0]
    assert second[1][2] == page(1)


def test_pages_that_are_differences_from_lost_ones_are_lost_too() -> None:
    data = bytearray(image())
    start = body_of(bytes(data), 2)
    data[start + 3] ^= 0x40
    events, losses = salvage(bytes(data))
    assert len(losses) == 2
    assert losses[1].reason == "pages that it refers to are lost"
    assert is_part_of_the_whole(mentions(events))


def test_without_a_header_nothing_can_be_understood() -> None:
    data = bytearray(image())
    data[30] ^= 1
    with pytest.raises(xsave.StreamError, match="header"):
        salvage(bytes(data))


def test_an_image_in_the_guests_memory_is_not_taken_for_this_one() -> None:
    inner = write([ordinary(0x900, [11, 12])])
    inner += bytes(-len(inner) % 4096)
    pages = [inner[at : at + 4096] for at in range(0, len(inner), 4096)]
    outer = bytearray(write([ordinary(0, [1]), pass_of(pages, 16), ordinary(1, [2])]))
    start = body_of(bytes(outer), 1)
    outer[start - 4090] ^= 1  # the head of the batch that holds it
    del outer[-40:]  # and no index to go by
    events, losses = salvage(bytes(outer))
    assert losses
    assert 0x900 not in {pfn for pfn, _, _ in mentions(events)}


def test_the_seal_is_not_what_salvage_goes_by() -> None:
    """Each piece stands for itself: a wrong seal costs nothing but the end piece's word."""
    data = image()
    seal = hashlib.sha256(b"another").digest()
    at = data.rindex(b"dseal") + 7
    forged = data[:at] + seal + data[at + 32 :]
    events, losses = salvage(forged)
    assert mentions(events) == WHOLE
    assert losses
