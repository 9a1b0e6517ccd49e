"""tmem chunks become tmem's records; what the releases did wrong is said, or mended."""

from __future__ import annotations

import io
import struct

import pytest

import xsave
from tests.plugins.legacy import build as o
from tests.plugins.legacy.streams import bodies, convert, names, read, remarks
from tests.plugins.xen_stream import build as b
from xsave import FormatError, LossError

A, B, C = (0x1234, 0, 0), ((1 << 64) - 1, (1 << 64) - 1, 0), (2, 2, 2)
PAGES = [(A, 7, b.page(7)), (B, 0xFFFFFFFF, b.page(8)), (C, 2, bytes(4096))]


def record(pool: int, oids: list[tuple[int, ...]], indexes: list[int], *pages: bytes) -> bytes:
    head = struct.pack("<IIHHI", pool, len(oids), len(oids[0]), 0, 0)
    words = b"".join(o.words(oid, 8) for oid in oids)
    return head + words + o.words(indexes, 4) + b"".join(pages)


@pytest.mark.parametrize("w", [4, 8])
def test_client_pools_pages_and_invalidations_become_records(w: int) -> None:
    pools = [o.Pool(0, 0x01000001, PAGES, uuid=bytes(range(16))), o.Pool(5, 0x01000000)]
    extra = o.tmem_extra([(0, A, 7), (0, C, 2), (5, A, 1), (0, B, 3)])
    events = read(o.pv_with_tmem(w, o.tmem(pools, flags=2), extra))
    assert bodies(events, "xen.tmem.client") == [struct.pack("<5I", 1, 16, 2, 0, 0)]
    assert bodies(events, "xen.tmem.pool") == [
        struct.pack("<IIQ", 0, 0x01000001, 3) + bytes(range(16)),
        struct.pack("<IIQ", 5, 0x01000000, 0) + bytes(16),
    ]
    oids, indexes, pages = zip(*PAGES, strict=True)
    assert bodies(events, "xen.tmem.pages") == [record(0, list(oids), list(indexes), *pages)]
    assert bodies(events, "xen.tmem.invalidate") == [
        record(0, [A, C], [7, 2]), record(5, [A], [1]), record(0, [B], [3]),
    ]  # fmt: skip
    assert names(events).index("xen.tmem.invalidate") > names(events).index("xen.pv.page_data")


def test_object_ids_of_the_first_releases_have_one_word() -> None:
    pools = [o.Pool(0, 1, [((A[0],), 7, b.page(7)), ((9,), 8, b.page(8))], n_pages=3)]
    data = o.pv_with_tmem(8, o.tmem(pools, abi=0), o.tmem_extra([(0, (9,), 8)]))
    events = read(data)
    assert bodies(events, "xen.tmem.pages") == [
        record(0, [(A[0],), (9,)], [7, 8], b.page(7), b.page(8))
    ]
    assert bodies(events, "xen.tmem.invalidate") == [record(0, [(9,)], [8])]


def test_a_record_has_1024_pages_at_most() -> None:
    pages = [((n, 1, 2), n, bytes(4096)) for n in range(1, 1026)]
    events = read(o.pv_with_tmem(8, o.tmem([o.Pool(0, pages=pages)])))
    sizes = [struct.unpack_from("<I", body, 4)[0] for body in bodies(events, "xen.tmem.pages")]
    assert sizes == [1024, 1]


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        (o.Pool(0, pages=PAGES, n_pages=4), "1 of 4 pages (the first one) were not written"),
        (o.Pool(0, pages=[], n_pages=4), "4 of 4 pages (all) were not written"),
        (o.Pool(0, pages=PAGES, n_pages=9), "6 of 9 pages (some) were not written"),
    ],
)
def test_pages_that_a_release_lost_are_told_of(
    pool: o.Pool, said: str, manager: xsave.PluginManager
) -> None:
    data = o.pv_with_tmem(8, o.tmem([pool]))
    [(text, is_loss)] = remarks(data)
    assert said in text and is_loss
    report = xsave.verify(io.BytesIO(data), manager=manager)
    assert [remark.is_loss for remark in report.remarks] == [True]
    assert report.partial


def test_a_lost_page_that_the_guest_gave_up_meanwhile_is_no_loss() -> None:
    chunks = o.tmem([o.Pool(0, pages=PAGES, n_pages=4)])
    [(text, is_loss)] = remarks(o.pv_with_tmem(8, chunks, o.tmem_extra([(0, A, 99), (0, A, 7)])))
    assert "nothing is lost" in text and not is_loss
    # one that was sent is another matter
    [(_, is_loss)] = remarks(o.pv_with_tmem(8, chunks, o.tmem_extra([(0, A, 7)])))
    assert is_loss


def test_a_whole_list_without_a_terminator_is_nothing_to_speak_of() -> None:
    assert remarks(o.pv_with_tmem(8, o.tmem([o.Pool(0, pages=PAGES)]))) == []


@pytest.mark.parametrize("w", [4, 8])
@pytest.mark.parametrize("after", [[], [o.Pool(2, 0), o.Pool(3, 0x01000000)]])
def test_a_list_that_stops_without_its_terminator_is_mended(w: int, after: list[o.Pool]) -> None:
    pool = o.Pool(0, pages=PAGES, n_pages=5, terminator=False)
    data = o.pv_with_tmem(w, o.tmem([pool, *after]))
    mended, lost = remarks(data)
    assert "no terminator after 3 of 5 pages; mended" in mended[0] and not mended[1]
    assert "2 of 5 pages (some)" in lost[0] and lost[1]
    events = read(data)
    assert names(events)[-1] == "xen.libxc.end"
    assert len(bodies(events, "xen.tmem.pool")) == 1 + len(after)


def test_it_is_mended_before_a_page_batch_too() -> None:
    pool = o.Pool(0, pages=PAGES, n_pages=5, terminator=False)
    data = o.pv_head(8) + o.tmem([pool]) + o.pv_pages(8) + o.vcpu_info() + o.chunk(o.END)
    assert "mended" in remarks(data + o.pv_tail(8))[0][0]


def test_an_object_that_looks_like_the_next_pool_stays_a_page() -> None:
    """Its id is that of a pool, flags, no pages; what follows is not the end of the chunk."""
    pages = [((5, 0, 0), 0, bytes(4096)), ((6, 0, 0), 0xFFFFFFFF, b"\xff" * 4096), *PAGES]
    data = o.pv_with_tmem(8, o.tmem([o.Pool(0, pages=pages, n_pages=6)]))
    assert struct.unpack_from("<I", bodies(read(data), "xen.tmem.pages")[0], 4) == (5,)


def test_a_terminator_too_many_is_passed_over() -> None:
    data = o.pv_with_tmem(8, o.tmem([o.Pool(0, pages=PAGES, terminator=True), o.Pool(1, 0)]))
    assert remarks(data) == [("tmem pool 0: a terminator after all 3 pages; passed over", False)]
    assert len(bodies(read(data), "xen.tmem.pool")) == 2


@pytest.mark.parametrize(
    ("chunks", "match"),
    [
        (o.tmem([], abi=2), "TMEM: ABI version at .*: expected 0 or 1, got 2"),
        (o.tmem([], nr_pools=17), "TMEM: max pools at .*: expected 1 to 16, got 17"),
        (o.tmem([], separator=0), "TMEM: separator at .*: expected -1, got 0x0"),
        (o.tmem([o.Pool(3), o.Pool(2)]), "TMEM: pool_id at .*: expected 4 to 15, or -1, got 0x2"),
        (o.tmem([o.Pool(16)]), "TMEM: pool_id at .*: expected 0 to 15, or -1, got 0x10"),
        (o.tmem([]) + o.tmem([]), "TMEM at .*: expected one in a stream, got another"),
        (o.tmem([]) + o.tmem_extra([(1, A, 1)]), "pool_id at .*: expected a pool of the TMEM"),
    ],
)
def test_a_wrong_chunk_is_refused_with_its_place(chunks: bytes, match: str) -> None:
    with pytest.raises((FormatError, xsave.StreamError), match=match):
        read(o.pv_with_tmem(8, chunks))


def test_what_the_tmem_plugin_refuses_is_refused_with_the_record(
    manager: xsave.PluginManager,
) -> None:
    twice = o.tmem([o.Pool(0, pages=[PAGES[0], PAGES[0]])])
    with pytest.raises(xsave.RecordError, match=r"xen.tmem.pages at offset .*each once in"):
        xsave.verify(io.BytesIO(o.pv_with_tmem(8, twice)), manager=manager)


# Into other formats.


def test_native_keeps_tmem_bit_for_bit(manager: xsave.PluginManager) -> None:
    data = o.images()["legacy tmem"]
    native = convert(data, "native", manager)
    found = xsave.inspect(io.BytesIO(native), manager=manager)
    kept = [item.name for item in found.items if item.name.startswith("xen.tmem")]
    assert kept == [name for name in names(read(data)) if name.startswith("xen.tmem")]
    pages = xsave.read_record(io.BytesIO(native), "xen.tmem.pages", manager=manager)
    assert [bytes(pages.record.body)] == bodies(read(data), "xen.tmem.pages")


@pytest.mark.parametrize("to", ["xl", "libxl", "libxc-v3", "xapi"])
def test_a_format_without_tmem_names_all_that_would_be_lost(
    to: str, manager: xsave.PluginManager
) -> None:
    with pytest.raises(LossError) as refused:
        convert(o.images()["legacy tmem"], to, manager)
    assert refused.value.losses == {
        "xen.tmem.client": 1, "xen.tmem.pool": 2, "xen.tmem.pages": 1, "xen.tmem.invalidate": 1,
    }  # fmt: skip
    for name in (*refused.value.losses, "--allow-loss", "native"):
        assert name in str(refused.value)


def test_it_is_lost_when_that_is_allowed_and_the_report_says_so(
    manager: xsave.PluginManager,
) -> None:
    data, out = o.images()["legacy tmem"], io.BytesIO()
    report = xsave.run(io.BytesIO(data), out, to="libxl", allow_loss=["xen.tmem"], manager=manager)
    assert report.lost["xen.tmem.pool"] == 2 and report.partial
    plain = o.pv_head(8) + o.tsc_info() + o.pv_pages(8) + o.tsc_info()
    plain += o.batch(8, [(0, 4)], [b.page(9)]) + o.vcpu_info() + o.chunk(o.END) + o.pv_tail(8)
    assert out.getvalue() == convert(plain, "libxl", manager)
