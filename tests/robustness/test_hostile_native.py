"""Native images whose sums and seal are right and whose contents are made to hurt.

Anyone can compute a checksum. What an image says is believed only within bounds, and what
does not fit together is refused before it is used.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import cbor2
import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

import xsave
from tests.plugins.xen_stream import build as b
from tests.robustness.images import (
    HEADER,
    WITH_SHELF,
    Piece,
    base_pieces,
    batch,
    delta_pieces,
    deltas,
    kind_of,
    native,
    record,
    seal_of,
    successor_pieces,
    with_base,
    xor,
)
from xsave import MissingPluginError, StreamError
from xsave.testing import MemoryPipe, MemorySource
from xsave_plugins.native import spec
from xsave_plugins.native.finder import NativeFinder
from xsave_plugins.native.reader import NativeReader

PAGES = kind_of("xen.hvm.page_data", 0)
BODY = b.page(1) + b.page(2)
GOOD = [PAGES, batch(0, [1, 2], zero=[False, False], slots=[16, 17], body=BODY)]
ODD_VALUES: list[Any] = [
    None, True, -1, 1.5, float("nan"), 1 << 63, "", "\x1b[2J", b"", b"\xff" * 40, [], [[]],
    {}, {"a": 1},
]  # fmt: skip


def read(data: bytes, manager: xsave.PluginManager, mode: xsave.PageMode) -> None:
    options = xsave.ReadOptions(mode, manager.codecs.items(), xsave.Workers(1))
    for _event in NativeReader(MemoryPipe(data), options):
        pass


def refused(data: bytes, manager: xsave.PluginManager, match: str | None = None) -> None:
    for mode in xsave.PageMode:
        with pytest.raises(StreamError, match=match):
            read(data, manager, mode)


def test_the_images_made_here_are_good(manager: xsave.PluginManager) -> None:
    for mode in xsave.PageMode:
        read(native(GOOD), manager, mode)


@pytest.mark.parametrize("key", ["guest", "source", "checksum", "window"])
@pytest.mark.parametrize("value", ODD_VALUES, ids=repr)
def test_a_header_field_of_the_wrong_kind_is_refused(
    key: str, value: Any, manager: xsave.PluginManager
) -> None:
    if key == "source" and isinstance(value, dict):
        return
    refused(native(GOOD, {**HEADER, key: value}), manager)


@pytest.mark.parametrize("key", ["type", "page_size"])
@pytest.mark.parametrize("value", [*ODD_VALUES, 4097, "x86_arm"], ids=repr)
def test_a_guest_of_the_wrong_kind_is_refused(
    key: str, value: Any, manager: xsave.PluginManager
) -> None:
    guest = {**HEADER["guest"], key: value}
    refused(native(GOOD, {**HEADER, "guest": guest}), manager)


HOSTILE_CBOR = {
    "nothing": b"",
    "no map": b"\x80",
    "more behind it": cbor2.dumps(dict(HEADER)) + b"\0",
    "an integer key": b"\xa1\x01\x02",
    "a key twice": b"\xa2\x61a\x01\x61a\x02",
    "indefinite": b"\xbf\xff",
    "a huge integer": b"\xa1\x66window\xc2\x59\x13\x88" + b"\xff" * 5000,
    "a mime message": cbor2.dumps({"window": cbor2.CBORTag(36, "x")}),
    "a set": cbor2.dumps({"window": cbor2.CBORTag(258, [1])}),
    "a list that holds itself": b"\xa1\x66window\xd8\x1c\x81\xd8\x1d\x00",
    "undefined": b"\xa1\x66window\xf7",
    "too deep": b"\xa1\x66window" + b"\x81" * 5000 + b"\0",
    "a length beyond the end": b"\xa1\x66window\x5b\x7f" + b"\xff" * 7,
    "an array beyond the end": b"\xa1\x66window\x9b\x0f" + b"\xff" * 7,
    "broken text": b"\xa1\x66window\x61\xff",
}


@pytest.mark.parametrize("head", HOSTILE_CBOR.values(), ids=HOSTILE_CBOR)
def test_hostile_cbor_is_refused_wherever_it_stands(
    head: bytes, manager: xsave.PluginManager
) -> None:
    refused(native(GOOD, head), manager)
    for kind in (spec.TYPE, spec.RECORD, spec.PAGES, spec.INDEX, spec.END, 200):
        refused(native([PAGES, Piece(kind, head)]), manager)


@pytest.mark.parametrize(
    "piece", [PAGES, GOOD[1], record(0, b"body")], ids=["type", "pages", "rec"]
)
@pytest.mark.parametrize("value", ODD_VALUES, ids=repr)
def test_a_piece_with_a_field_of_the_wrong_kind_is_refused(
    piece: Piece, value: Any, manager: xsave.PluginManager
) -> None:
    assert not isinstance(piece.head, bytes)
    before = [] if piece is PAGES else [PAGES]
    for key in piece.head:
        fine = {("mandatory", True), ("plugin", ""), ("distribution", "")}
        if (key, value if isinstance(value, str | bool) else None) in fine:
            continue
        refused(native([*before, evolve(piece, head={**piece.head, key: value})]), manager)


def changed(piece: Piece, **keys: Any) -> list[Piece]:
    assert isinstance(piece.head, Mapping)
    return [PAGES, evolve(piece, head={**piece.head, **keys})]


WRONG: dict[str, list[Piece]] = {
    "a type out of order": [kind_of("a.b", 1)],
    "a type without a name": [kind_of("", 0)],
    "a name that steers a terminal": [kind_of("\x1b]0;owned\x07", 0)],
    "a name without end": [kind_of("a" * 300, 0)],
    "a type with a body": [evolve(PAGES, body=bytes(8))],
    "a record of an undefined type": [record(0, b"")],
    "a record of another size": [kind_of("a.b", 0), record(0, b"body", size=5)],
    "a record above 128 MiB": [kind_of("a.b", 0), record(0, b"", size=(128 << 20) + 1)],
    "padding of 8 bytes": [kind_of("a.b", 0), record(0, b"body", padding=bytes(8))],
    "more entries than the table has": changed(GOOD[1], entries=3),
    "more runs than entries": changed(GOOD[1], entry_runs=3),
    "more pages than entries": changed(GOOD[1], pages=3),
    "fewer pages than the entries say": changed(GOOD[1], pages=1),
    "more entries than may be": changed(GOOD[1], entries=spec.ENTRIES_MAX + 1),
    "more pages than may be": changed(GOOD[1], pages=spec.PAGES_MAX + 1, entries=1 << 20),
    "fewer pages stored than named": changed(GOOD[1], stored=1),
    "another base": changed(GOOD[1], base=7),
    "a page from before the first": [
        PAGES, batch(0, [1, 2], zero=[False, False], slots=[15, 16], body=BODY)
    ],
    "a page from after the last": [
        PAGES, batch(0, [1, 2], zero=[False, False], slots=[17, 18], body=BODY)
    ],
    "slots for more pages than there are": [
        PAGES, batch(0, [1], zero=[False], slots=[16, 17], body=BODY)
    ],
    "a page for an entry that has none": [
        PAGES, batch(0, [0xF << 60], zero=[False], slots=[16], body=b.page(1))
    ],
    "bits after the last page": [
        PAGES,
        evolve(batch(0, [1], zero=[True]), table=batch(0, [1], zero=[True]).table[:-1] + b"\3"),
    ],
    "an unknown kind that may not be skipped": [Piece(9, {})],
    "a skippable piece without a sum": [Piece(200, {}, body=bytes(8), body_sum=False)],
}  # fmt: skip


@pytest.mark.parametrize("pieces", WRONG.values(), ids=WRONG)
def test_what_does_not_fit_together_is_refused(
    pieces: list[Piece], manager: xsave.PluginManager
) -> None:
    modes = set(xsave.PageMode)
    if pieces[-1].kind == 200:
        modes -= {xsave.PageMode.SKIP}  # bodies are passed over there
    for mode in modes:
        with pytest.raises(StreamError):
            read(native(pieces), manager, mode)


def test_the_index_must_say_what_was_read(manager: xsave.PluginManager) -> None:
    refused(native(GOOD, index=False), manager, "the index")
    refused(native(GOOD, rows=bytes(40)), manager, "the index")
    refused(native(GOOD, rows=b""), manager)
    refused(native(GOOD, end={"index": 64}), manager, "'index'")
    refused(native(GOOD, end={"pieces": 1}), manager, "'pieces'")
    own = Piece(spec.INDEX, {"types": [PAGES.head], "rows": 0})
    refused(native([PAGES, own, *GOOD[1:]]), manager, "the end piece after the index")


def test_a_later_version_is_refused_by_number(manager: xsave.PluginManager) -> None:
    data = bytearray(native(GOOD))
    data[8] = 3
    refused(bytes(data), manager, r"expected 1\.x or 2\.x, got 3\.0: a later xsave can read it")


def test_pieces_of_a_later_minor_version_are_passed_over(manager: xsave.PluginManager) -> None:
    for mode in xsave.PageMode:
        read(
            native([PAGES, Piece(200, {"new": [1]}, b"table", bytes(40)), *GOOD[1:]]), manager, mode
        )


def test_an_unknown_codec_is_told_by_name(manager: xsave.PluginManager) -> None:
    data = native([kind_of("a.b", 0), record(0, b"body", codec="rot13")])
    with pytest.raises(MissingPluginError, match="rot13"):
        read(data, manager, xsave.PageMode.FULL)


@pytest.mark.parametrize("codec", ["zstd", "lz4", "brotli"])
def test_a_bomb_is_refused_by_its_claim(codec: str, manager: xsave.PluginManager) -> None:
    """Too much and too little, in a record and in pages."""
    made = manager.codecs.find(codec)
    packed = bytes(made.compress(bytes(8 << 20), made.default_level))
    for size in (0, 1, 4096, (8 << 20) - 1, (8 << 20) + 1, 128 << 20):
        pieces = [kind_of("a.b", 0), record(0, packed, size=size, codec=codec)]
        with pytest.raises(StreamError, match="a\\.b"):
            read(native(pieces), manager, xsave.PageMode.FULL)
    entries = batch(0, [1, 2], zero=[False, False], slots=[16, 17], codec=codec, stored=2)
    with pytest.raises(StreamError, match="page_data"):
        read(native([PAGES, evolve(entries, body=packed)]), manager, xsave.PageMode.FULL)


def test_a_hostile_image_gives_the_finder_errors_of_ours_only(
    manager: xsave.PluginManager,
) -> None:
    good = native(GOOD)
    options = xsave.ReadOptions(xsave.PageMode.FULL, manager.codecs.items(), xsave.Workers(1))
    assert NativeFinder(MemorySource(good), options).find([1])[1][0] == 0
    rows = b"".join(
        np.array((offset, 0, 99, 0, 0, spec.PAGES), spec.INDEX_ROW).tobytes()
        for offset in (8, 7, 0, 1 << 60)
    )
    hostile = [
        good[:40], good[:-1], b"", bytes(16) + good[-16:], native(GOOD, rows=rows),
        native(GOOD, end={"index": 1 << 60}), native(GOOD, end={"index": 8}),
        native(GOOD, end={"index": None}), native(GOOD, index=False),
    ]  # fmt: skip
    for data in hostile:
        with pytest.raises(StreamError):
            NativeFinder(MemorySource(data), options).find([1])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_finder_over_changed_bytes_finds_or_refuses(
    manager: xsave.PluginManager, data: st.DataObject
) -> None:
    image = bytearray(native(GOOD))
    for at in data.draw(st.lists(st.integers(0, len(image) - 1), max_size=3)):
        image[at] = data.draw(st.integers(0, 255))
    options = xsave.ReadOptions(xsave.PageMode.FULL, manager.codecs.items(), xsave.Workers(1))
    try:
        found = NativeFinder(MemorySource(bytes(image)), options).find([1, 2, 3])
    except StreamError:
        return
    for pfn, (_, page) in found.items():
        assert page is not None
        assert page.tobytes() == b.page(pfn)


_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=9)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_values_in_heads_are_refused_or_read(
    manager: xsave.PluginManager, data: st.DataObject
) -> None:
    pieces = []
    for piece in [PAGES, GOOD[1], kind_of("a.b", 1), record(1, b"body")]:
        assert not isinstance(piece.head, bytes)
        keys = data.draw(st.lists(st.sampled_from(sorted(piece.head)), max_size=2))
        pieces.append(evolve(piece, head={**piece.head, **{k: data.draw(_plain) for k in keys}}))
    key = data.draw(st.sampled_from([*HEADER, "other"]))
    header = {**HEADER, key: data.draw(st.just(HEADER.get(key)) | _plain)}
    for mode in xsave.PageMode:
        try:
            read(native(pieces, header), manager, mode)
        except (StreamError, MissingPluginError):
            continue


def test_verify_refuses_records_and_pages_under_each_others_names(
    manager: xsave.PluginManager,
) -> None:
    swapped = [kind_of("xen.hvm.params", 0), batch(0, [1], zero=[True])]
    with pytest.raises(StreamError, match="expected a record without pages, got pages"):
        xsave.verify(io.BytesIO(native(swapped)), manager=manager)
    swapped = [PAGES, record(0, b"body")]
    with pytest.raises(StreamError, match="expected pages, got a record"):
        xsave.verify(io.BytesIO(native(swapped)), manager=manager)


# -- version 2: differences --------------------------------------------------------------------

BASE = native(base_pieces())
SUCCESSOR = native(successor_pieces(), with_base(BASE))


def read_with_base(
    data: bytes, manager: xsave.PluginManager, mode: xsave.PageMode, base: bytes = BASE
) -> list[Any]:
    codecs = manager.codecs.items()
    options = xsave.ReadOptions(mode, codecs, xsave.Workers(1), MemorySource(base))
    return list(NativeReader(MemoryPipe(data), options))


def test_the_images_with_differences_made_here_are_good(manager: xsave.PluginManager) -> None:
    assert seal_of(BASE).hex() == NativeReader(MemorySource(SUCCESSOR), _structure()).info.base
    for mode in xsave.PageMode:
        read(native(delta_pieces(), WITH_SHELF), manager, mode)
        read_with_base(SUCCESSOR, manager, mode)
    (event,) = read_with_base(SUCCESSOR, manager, xsave.PageMode.FULL)
    assert event.pages.tobytes() == b.page(1) + b.page(3)


def _structure() -> xsave.ReadOptions:
    return xsave.ReadOptions(xsave.PageMode.SKIP)


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ({"needs": ["teleport"]}, "what the image needs .*'teleport': a later xsave can read it"),
        ({"needs": ["deltas", "teleport"], "shelf": 8}, "teleport"),
        ({"needs": "deltas", "shelf": 8}, "'needs'"),
        ({"needs": [1], "shelf": 8}, "'needs'"),
        ({"needs": ["deltas"]}, "'shelf'"),
        ({"needs": ["deltas"], "shelf": 0}, "'shelf'"),
        ({"needs": ["deltas"], "shelf": True}, "'shelf'"),
        ({"needs": ["deltas"], "shelf": spec.SHELF_MAX + 1}, "'shelf'"),
        ({"needs": ["base"]}, "'base'"),
        ({"needs": ["base"], "base": {}}, "'base'"),
        ({"needs": ["base"], "base": {"seal": bytes(31)}}, "'base'"),
        ({"needs": ["base"], "base": bytes(32)}, "'base'"),
    ],
    ids=repr,
)
def test_what_an_image_needs_is_known_and_right_or_refused(
    header: dict[str, Any], match: str, manager: xsave.PluginManager
) -> None:
    refused(native(GOOD, {**HEADER, **header}), manager, match)


def test_version_2_says_what_it_needs_and_version_1_needs_nothing(
    manager: xsave.PluginManager,
) -> None:
    refused(native(GOOD, major=2), manager, "'needs' in the image header")
    refused(native(delta_pieces(), WITH_SHELF, major=1), manager, "'table'")
    old = native(GOOD, {**HEADER, "needs": ["teleport"], "shelf": -1}, major=1)
    for mode in xsave.PageMode:
        read(old, manager, mode)


PLAIN = delta_pieces()[1]


def of_deltas(body: bytes, base: int = 1, **what: Any) -> Piece:
    """A batch of pfn 5, one page."""
    return batch(
        0, [5], zero=[False], slots=[16], body=body, base=base, deltas=deltas(1, 1, **what)
    )


CHANGE = b.page(1)

WRONG_SHELF: dict[str, list[Piece]] = {
    "a difference from an empty place": [of_deltas(CHANGE, 0, kept=[0], places=[3], changed=[0])],
    "a difference from another place": [
        PLAIN, of_deltas(CHANGE, kept=[0], places=[4], changed=[0])
    ],
    "a place beyond the shelf": [of_deltas(CHANGE, 0, kept=[0], places=[8])],
    "a place twice in a batch": [
        batch(0, [5, 6], zero=[False, False], slots=[16, 17], body=BODY,
              deltas=deltas(2, 2, kept=[0, 1], places=[3, 3]))
    ],
    "pages of a base that is not needed": [of_deltas(CHANGE, 0, based=[0])],
    "the same as a base that is not needed": [
        batch(0, [5], zero=[False], deltas=deltas(1, 0, same=[0]))
    ],
}  # fmt: skip
for _key in ("kept", "place_runs", "same", "based"):
    for _value in (0, 2, -1, 1 << 40, None, "1"):
        if (_key, _value) not in {("same", 0), ("based", 0)}:
            _piece = delta_pieces()[1]
            assert isinstance(_piece.head, Mapping)
            WRONG_SHELF[f"{_key} of {_value!r}"] = [
                evolve(_piece, head={**_piece.head, _key: _value})
            ]
for _cut in range(1, 11):
    WRONG_SHELF[f"a table cut by {_cut}"] = [evolve(PLAIN, table=PLAIN.table[:-_cut])]
WRONG_SHELF["a table with more behind it"] = [evolve(PLAIN, table=PLAIN.table + b"\0")]
WRONG_SHELF["bits after the last kept page"] = [evolve(PLAIN, table=PLAIN.table[:-1] + b"\2")]


@pytest.mark.parametrize("pieces", WRONG_SHELF.values(), ids=WRONG_SHELF)
def test_a_wrong_use_of_the_shelf_is_refused(
    pieces: list[Piece], manager: xsave.PluginManager
) -> None:
    refused(native([PAGES, *pieces], WITH_SHELF), manager)


def test_a_finder_refuses_a_difference_from_nothing(manager: xsave.PluginManager) -> None:
    """The reader refuses such an image; who has only the index must, too."""
    lost = of_deltas(CHANGE, 0, kept=[0], places=[3], changed=[0])
    data = native([PAGES, lost], WITH_SHELF)
    options = xsave.ReadOptions(xsave.PageMode.FULL, manager.codecs.items(), xsave.Workers(1))
    with pytest.raises(StreamError, match="a difference from place 3, where nothing lies"):
        NativeFinder(MemorySource(data), options).find([5])


def batch_of(pfn: int, what: Any, *, body: bytes = b"", slots: tuple[int, ...] = ()) -> list[Piece]:
    return [PAGES, batch(0, [pfn], zero=[False], slots=slots, body=body, deltas=what)]


WRONG_BASE = {
    "a pfn that the base has no page of": batch_of(3, deltas(1, 0, same=[0])),
    "a pfn that the base does not mention": batch_of(9, deltas(1, 0, same=[0])),
    "a pfn beyond all guests": batch_of((1 << 52) - 1, deltas(1, 0, same=[0])),
    "a difference from such a pfn": batch_of(3, deltas(1, 1, based=[0]), body=CHANGE, slots=(16,)),
    "a difference that no pfn has": [
        PAGES,
        batch(0, [1], zero=[True], body=CHANGE, deltas=deltas(1, 1, based=[0]), stored=1),
    ],
    "a page that is zero and that of the base": [
        PAGES, batch(0, [1], zero=[True], deltas=deltas(1, 0, same=[0]))
    ],
    "a slot for a page of the base": batch_of(
        1, deltas(1, 1, same=[0]), body=CHANGE, slots=(16,)
    ),
    "a shelf that is not needed": batch_of(
        1, deltas(1, 1, kept=[0], places=[0]), body=CHANGE, slots=(16,)
    ),
}  # fmt: skip


@pytest.mark.parametrize("pieces", WRONG_BASE.values(), ids=WRONG_BASE)
def test_a_wrong_reference_to_the_base_is_refused(
    pieces: list[Piece], manager: xsave.PluginManager
) -> None:
    data = native(pieces, with_base(BASE))
    for mode in (xsave.PageMode.FULL, xsave.PageMode.CHECK):
        with pytest.raises(StreamError):
            read_with_base(data, manager, mode)


def test_a_page_may_not_differ_from_both(manager: xsave.PluginManager) -> None:
    header = {**with_base(BASE), "needs": ["base", "deltas"], "shelf": 8}
    kept = deltas(1, 1, kept=[0], places=[3])
    both = deltas(1, 1, based=[0], kept=[0], places=[3], changed=[0])
    pieces = [
        PAGES, batch(0, [1], zero=[False], slots=[16], body=CHANGE, deltas=kept),
        batch(0, [1], zero=[False], slots=[16], body=CHANGE, base=1, deltas=both),
    ]  # fmt: skip
    with pytest.raises(StreamError, match="differs from the base and from the shelf"):
        read_with_base(native(pieces, header), manager, xsave.PageMode.FULL)
    good = deltas(1, 1, based=[0], kept=[0], places=[3])
    again = deltas(1, 1, kept=[0], places=[3], changed=[0])
    pieces = [
        PAGES, batch(0, [1], zero=[False], slots=[16], body=xor(b.page(1), b.page(7)), deltas=good),
        batch(0, [1], zero=[False], slots=[16], body=xor(b.page(7), b.page(8)), base=1,
              deltas=again),
    ]  # fmt: skip
    first, second = read_with_base(native(pieces, header), manager, xsave.PageMode.FULL)
    assert (first.pages.tobytes(), second.pages.tobytes()) == (b.page(7), b.page(8))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_changed_bytes_of_images_with_differences_are_refused_or_read_right(
    manager: xsave.PluginManager, data: st.DataObject
) -> None:
    good = data.draw(st.sampled_from([native(delta_pieces(), WITH_SHELF), SUCCESSOR]))
    image = bytearray(good)
    image[data.draw(st.integers(0, len(image) - 1))] ^= data.draw(st.integers(1, 255))
    for mode in xsave.PageMode:
        try:
            read_with_base(bytes(image), manager, mode)
        except xsave.XsaveError:
            continue
        assert mode is xsave.PageMode.SKIP, "contents changed without notice"
    options = xsave.ReadOptions(
        xsave.PageMode.FULL, manager.codecs.items(), xsave.Workers(1), MemorySource(BASE)
    )
    try:
        found = NativeFinder(MemorySource(bytes(image)), options).find([1, 2, 5])
    except xsave.XsaveError:
        return
    right = {1: b.page(1), 2: b.page(3), 5: b.page(2)}
    for pfn, (_, page) in found.items():
        assert page is not None
        assert page.tobytes() == right[pfn]


def test_a_hostile_base_ends_in_one_error(manager: xsave.PluginManager) -> None:
    """It is read as strictly as any image, before a page of it is believed."""
    twice = native([*base_pieces(), batch(0, [1], zero=[True], base=2)])
    rows = native(base_pieces(), rows=bytes(40))
    for base in (BASE[:-1], BASE[:100], rows, twice, BASE.replace(b.page(1), b.page(4))):
        with pytest.raises(xsave.XsaveError):
            read_with_base(SUCCESSOR, manager, xsave.PageMode.FULL, base)
