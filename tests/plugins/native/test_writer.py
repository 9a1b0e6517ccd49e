"""What a native image costs, and that it does not depend on who computes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import xsave
from tests.plugins.native.batches import batch, ordinary, page
from xsave.testing import MemorySink, MemorySource
from xsave_plugins.codecs.lz4 import Lz4Codec
from xsave_plugins.codecs.zstd import ZstdCodec
from xsave_plugins.native import spec
from xsave_plugins.native.format import NativeFormat
from xsave_plugins.native.pieces import Piece, read_header, read_piece

if TYPE_CHECKING:
    from xsave import Event

INFO = xsave.ImageInfo("test", xsave.GuestType.X86_HVM)


def write(events: Iterable[Event], **options: Any) -> bytes:
    sink = MemorySink()
    settings: dict[str, Any] = {"workers": xsave.Workers(1), **options}
    writer = NativeFormat().writer(sink, INFO, xsave.WriteOptions(**settings))
    for event in events:
        writer.put(event)
    writer.finish()
    settings["workers"].close()
    return sink.data


def pieces(image: bytes, kind: int) -> Iterator[tuple[Piece, int]]:
    """Pieces of a kind, with the offsets of their bodies."""
    source = MemorySource(image)
    read_header(source)
    while True:
        piece = read_piece(source)
        if piece.prefix.kind == kind:
            yield piece, source.offset
        source.skip(piece.prefix.body_size + (-piece.prefix.body_size & 7), "body")
        if piece.prefix.kind == spec.END:
            return


def batches(image: bytes) -> list[Piece]:
    return [piece for piece, _ in pieces(image, spec.PAGES)]


def test_zero_pages_cost_no_body() -> None:
    (piece,) = batches(write([ordinary(0, [0] * 100)]))
    assert (piece.prefix.body_size, piece.head["stored"]) == (0, 0)


def test_equal_pages_of_a_batch_are_stored_once() -> None:
    (piece,) = batches(write([ordinary(0, [1, 2, 1, 1, 2, 0])]))
    assert piece.head["stored"] == 2


def test_pages_stored_in_an_earlier_batch_are_named() -> None:
    first, second = batches(write([ordinary(0, [1, 2, 3]), ordinary(3, [3, 4, 1])]))
    assert (first.head["stored"], second.head["stored"]) == (3, 1)


def test_pages_further_back_than_the_window_are_stored_again() -> None:
    filler = [batch([(0, n)], [n.to_bytes(8, "little") * 512]) for n in range(1, spec.WINDOW + 1)]
    far = write([batch([(0, 0)], [page(1)]), *filler, batch([(0, 5)], [page(1)])])
    near = write([batch([(0, 0)], [page(1)]), *filler[1:], batch([(0, 5)], [page(1)])])
    assert batches(far)[-1].head["stored"] == 1
    assert batches(near)[-1].head["stored"] == 0


def test_pages_that_share_a_fingerprint_are_still_told_apart() -> None:
    """Two pages made to collide: the same words in another order, where the fingerprint
    weighs none of them."""
    one = np.zeros(512, np.uint64)
    one[1], one[2] = 7, 9
    other = np.zeros(512, np.uint64)
    other[1], other[2] = 9, 7
    image = write([batch([(0, 0), (0, 1)], [one.tobytes(), other.tobytes()])])
    (piece,) = batches(image)
    assert piece.head["stored"] == 2
    (event,) = NativeFormat().reader(MemorySource(image), xsave.ReadOptions())
    assert isinstance(event, xsave.PageBatch)
    assert event.pages is not None
    assert event.pages.tobytes() == one.tobytes() + other.tobytes()


def test_consecutive_pfns_of_one_type_are_one_run() -> None:
    entries = [(15, pfn) for pfn in range(1024)]
    (piece,) = batches(write([batch(entries, [])]))
    assert piece.head["entry_runs"] == 1
    assert piece.prefix.table_size == 12


def test_uncompressed_page_bodies_can_be_mapped() -> None:
    image = write([ordinary(0, [1, 2]), ordinary(2, [3])])
    offsets = [offset for _, offset in pieces(image, spec.PAGES)]
    assert [offset % 4096 for offset in offsets] == [0, 0]
    assert image[offsets[0] : offsets[0] + 8192] == page(1) + page(2)


@pytest.mark.parametrize("codec", [ZstdCodec(), Lz4Codec()])
def test_the_bytes_do_not_depend_on_the_number_of_workers(codec: xsave.Codec) -> None:
    events = [ordinary(10 * n, range(n, n + 10)) for n in range(40)]
    choice = xsave.CodecChoice(codec, codec.default_level)
    images = {write(events, codec=choice, workers=xsave.Workers(threads)) for threads in (1, 2, 5)}
    assert len(images) == 1


def test_what_does_not_shrink_is_stored_as_it_is() -> None:
    random = np.random.default_rng(0).bytes(4096)
    choice = xsave.CodecChoice(ZstdCodec(), 1)
    (piece,) = batches(write([batch([(0, 0)], [random])], codec=choice))
    assert "codec" not in piece.head
    assert piece.prefix.body_size == 4096


def test_a_type_is_defined_once_and_before_its_first_use() -> None:
    kind = xsave.RecordType("test.thing", 2, mandatory=False, owner=xsave.Owner("p", "d 1"))
    image = write([xsave.Record(kind, b"a"), xsave.Record(kind, b"b")])
    ((definition, offset),) = pieces(image, spec.TYPE)
    assert definition.head == {
        "number": 0, "name": "test.thing", "version": 2, "mandatory": False,
        "plugin": "p", "distribution": "d 1",
    }  # fmt: skip
    assert all(at > offset for _, at in pieces(image, spec.RECORD))


def test_the_header_says_who_wrote_it_when_and_from_what() -> None:
    info = xsave.ImageInfo("xl", xsave.GuestType.X86_PV, 4096, "4.17", 8, {"fact": 1})
    sink = MemorySink()
    about = {"writer": "xsave 9", "created": "2026-01-02T03:04:05Z"}
    NativeFormat().writer(sink, info, xsave.WriteOptions(about=about))
    head, _ = read_header(MemorySource(sink.data))
    assert head == {
        **about,
        "guest": {"type": "x86_pv", "page_size": 4096, "xen_version": "4.17", "word_size": 8},
        "source": {"format": "xl", "fact": 1},
        "checksum": "xxh3-128",
        "window": spec.WINDOW,
    }


def test_an_image_made_from_an_image_keeps_its_origin() -> None:
    reader = NativeFormat().reader(MemorySource(write([])), xsave.ReadOptions())
    sink = MemorySink()
    NativeFormat().writer(sink, reader.info, xsave.WriteOptions())
    head, _ = read_header(MemorySource(sink.data))
    assert head["source"] == {"format": "test"}


def test_an_unknown_checksum_is_refused_by_name() -> None:
    with pytest.raises(xsave.UsageError, match="no checksum is named 'crc'; known: xxh3-128"):
        write([], checksum="crc")


def test_a_batch_without_its_pages_is_refused() -> None:
    bare = batch([(0, 1)], [page(1)])
    bare.pages = None
    with pytest.raises(xsave.OutputError, match="without its pages"):
        write([bare])
