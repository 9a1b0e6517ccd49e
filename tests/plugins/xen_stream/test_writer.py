"""What was read is written back as it was; what is lost on the way is refused, or told."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pytest
from attrs import evolve

import xsave
from tests.plugins.xen_stream import build as b
from tests.plugins.xen_stream.streams import convert, names, open_reader, read, run, write
from xsave import (
    GuestType,
    ImageInfo,
    OutputError,
    PageBatch,
    Record,
    RecordError,
    RecordType,
    StreamError,
    UsageError,
)

NATIVE_CODECS = [None, "zstd", "lz4", "brotli:1"]
ODD = b.Rec(b.UNKNOWN_OPTIONAL, b"odd", padding=b"\1\2\3\4\5")
HVM_INFO = ImageInfo("native", GuestType.X86_HVM, xen_version="4.17")
REMUS = {
    "bare, captured after the first checkpoint": b.bare_remus(b.hvm(), []),
    "bare, captured": b.bare_remus(b.hvm(), [b.hvm_round()] * 2),
    "bare PV, captured": b.bare_remus(b.pv(), [b.pv_round()]),
    "bare, ended": b.bare_remus(b.hvm(), [b.hvm_round()], end=True),
    "nested, captured after the first checkpoint": b.nested_remus(b.hvm(), [], [b.emulator()]),
    "nested, captured": b.nested_remus(b.hvm(), [b.hvm_round()] * 2, [b.emulator()]),
    "nested PV, captured": b.nested_remus(b.pv(), [b.pv_round()]),
    "nested, ended": b.nested_remus(b.hvm(), [b.hvm_round()], [b.emulator()], end=True),
}


def format_of(data: bytes) -> str:
    return {b"Xen ": "xl", b"Libx": "libxl"}.get(data[:4], "libxc")


class TestSameBytes:
    @pytest.mark.parametrize("data", REMUS.values(), ids=REMUS)
    def test_checkpointed_streams_come_back(
        self, data: bytes, manager: xsave.PluginManager
    ) -> None:
        name = format_of(data)
        assert run(data, name, manager)[0] == data
        native, report = run(data, "native", manager)
        assert not report.left_out
        assert run(native, name, manager)[0] == data

    @pytest.mark.parametrize("codec", NATIVE_CODECS)
    def test_padding_and_reserved_fields_survive_xl_native_xl(
        self, codec: str | None, manager: xsave.PluginManager
    ) -> None:
        state = b.hvm_state()
        odd_tsc = evolve(state[0], body=state[0].body[:20] + b"\xaa\xbb\xcc\xdd")
        records = [
            *b.policies(), b.Rec(b.STATIC_DATA_END), ODD,
            b.page_data([(0, 0x0A5 << 52 | 1), (b.XTAB, 2)], [b.page(1)], reserved=0xDEAD),
            odd_tsc, *state[1:],
        ]  # fmt: skip
        inner = b.libxc(records, header=b.libxc_header(options=0xF0, reserved=(1, 2, 3)))
        emulator = evolve(b.emulator(), padding=b"\7\0\0\1")
        data = b.xl(
            b.libxl(inner, [emulator, b.Rec(b.LIBXL_END)], header=b.libxl_header(options=0xF2)),
            b.xl_header(struct.pack("<I", 2) + b"{}tail", optional_flags=5),
        )
        native, report = run(data, "native", manager, codec=codec)
        assert report.carried == ["xen.libxc.optional_0x80000042"]
        back, report = run(native, "xl", manager)
        assert back == data
        assert not report.left_out

    @pytest.mark.parametrize("version", [2, 3])
    @pytest.mark.parametrize("guest", [b.hvm, b.pv])
    def test_the_version_read_is_the_version_written(
        self, guest: object, version: int, manager: xsave.PluginManager
    ) -> None:
        records = b.hvm(version) if guest is b.hvm else b.pv(version)
        data = b.xl(b.libxl(b.libxc(records, version=version)))
        for codec in NATIVE_CODECS:
            native, _ = run(data, "native", manager, codec=codec)
            assert run(native, "xl", manager)[0] == data

    def test_an_explicit_static_data_end_and_policies_in_version_2_stay(
        self, manager: xsave.PluginManager
    ) -> None:
        data = b.libxc([*b.policies(), b.Rec(b.STATIC_DATA_END), *b.hvm(2)], version=2)
        out, report = run(data, "libxc", manager)
        assert out == data
        assert not report.left_out


class TestVersions:
    @pytest.mark.parametrize("guest", [b.hvm, b.pv])
    def test_version_2_becomes_3_by_one_record_and_the_number(self, guest: object) -> None:
        """The mark comes right before the first P2M_FRAMES (PV) or PAGE_DATA."""
        old = b.hvm(2) if guest is b.hvm else b.pv(2)
        needing = b.PAGE_DATA if guest is b.hvm else b.P2M_FRAMES
        at = [record.number for record in old].index(needing)
        new = [*old[:at], b.Rec(b.STATIC_DATA_END), *old[at:]]
        out, left_out = convert(b.libxc(old, version=2), "libxc", "libxc-v3")
        assert out == b.libxc(new)
        assert not left_out

    @pytest.mark.parametrize("guest", [b.hvm, b.pv])
    def test_version_3_becomes_2_without_three_records(self, guest: object) -> None:
        new = b.hvm() if guest is b.hvm else b.pv()
        dropped = (b.STATIC_DATA_END, b.CPUID_POLICY, b.MSR_POLICY)
        old = [record for record in new if record.number not in dropped]
        out, left_out = convert(b.libxc(new), "libxc", "libxc-v2")
        assert out == b.libxc(old, version=2)
        assert left_out == ["xen.x86.cpuid_policy", "xen.x86.msr_policy"]

    def test_what_a_version_leaves_out_is_reported(self, manager: xsave.PluginManager) -> None:
        _, report = run(b.libxc(b.hvm()), "libxc-v2", manager)
        assert report.left_out == {"xen.x86.cpuid_policy": 1, "xen.x86.msr_policy": 1}
        assert report.partial

    def test_the_same_version_changes_nothing(self) -> None:
        for version in (2, 3):
            data = b.libxc(b.pv(version), version=version)
            assert convert(data, "libxc", f"libxc-v{version}") == (data, [])

    def test_an_explicit_static_data_end_in_version_2_is_not_doubled(self) -> None:
        records = [b.Rec(b.STATIC_DATA_END), *b.hvm(2)]
        out, _ = convert(b.libxc(records, version=2), "libxc", "libxc-v3")
        assert out == b.libxc(records, version=3)

    def test_checkpoints_survive_the_way_to_version_2(self) -> None:
        data = b.bare_remus(b.hvm(), [b.hvm_round()])
        out, _ = convert(data, "libxc", "libxc-v2")
        assert names(read(out, "libxc"))[-1] == "xen.libxc.checkpoint"


class TestLayers:
    XL = b.xl(b.libxl(b.libxc(b.pv())))

    def test_the_way_inwards_takes_off_headers_and_tells_of_the_configuration(self) -> None:
        inner = b.libxc(b.pv())
        assert convert(self.XL, "xl", "libxl") == (b.libxl(inner), ["xen.xl.header"])
        assert convert(self.XL, "xl", "libxc") == (inner, ["xen.xl.header"])
        assert convert(b.libxl(inner), "libxl", "libxc") == (inner, [])

    def test_without_a_configuration_nothing_is_lost(self) -> None:
        bare = b.xl(b.libxl(b.libxc(b.pv())), b.xl_header(struct.pack("<I", 0), flags=b.XL_V2))
        out, left_out = convert(bare, "xl", "libxc")
        assert not left_out
        assert convert(out, "libxc", "xl") == (bare, [])

    def test_the_way_outwards_adds_headers_and_ends(self) -> None:
        out, left_out = convert(b.libxc(b.hvm()), "libxc", "xl")
        header = b.xl_header(struct.pack("<I", 0), flags=b.XL_V2)
        assert out == b.xl(b.libxl(b.libxc(b.hvm())), header)
        assert not left_out

    def test_mandatory_device_model_records_are_not_lost_silently(self) -> None:
        data = b.libxl(b.libxc(b.hvm()), [b.emulator(), b.Rec(b.LIBXL_END)])
        with pytest.raises(OutputError, match=r"xen\.qemu\.context is mandatory.*libxl or xl"):
            convert(data, "libxl", "libxc")

    def test_unknown_mandatory_records_are_not_lost_silently(self) -> None:
        kind = RecordType("vendor.thing")
        with pytest.raises(OutputError, match=r"vendor\.thing is mandatory.*native"):
            write([Record(kind, b"")], HVM_INFO, "xl")

    def test_unknown_optional_records_are_told_of(self) -> None:
        kind = RecordType("vendor.thing", mandatory=False)
        out, left_out = write([Record(kind, b"1"), Record(kind, b"2")], HVM_INFO, "libxc")
        assert left_out == ["vendor.thing"] * 2
        assert names(read(out, "libxc")) == ["xen.libxc.header", "xen.libxc.end"]

    @pytest.mark.parametrize("rounds", [[], [b.pv_round()], [b.pv_round()] * 2])
    def test_checkpoints_change_layers_and_back(self, rounds: Sequence[list[b.Rec]]) -> None:
        for end in (False, True):
            bare = b.bare_remus(b.pv(), rounds, end=end)
            nested = b.nested_remus(b.pv(), rounds, end=end)
            assert convert(bare, "libxc", "libxl") == (nested, [])
            assert convert(nested, "libxl", "libxc") == (bare, [])

    def test_headers_are_made_for_records_that_came_without(self) -> None:
        pages = np.frombuffer(b.page(1), np.uint8).reshape(1, b.PAGE)
        batch = PageBatch(RecordType("xen.hvm.page_data"), np.array([7], np.uint64), pages, 1)
        out, _ = write([batch], HVM_INFO, "xl")
        records = [b.Rec(b.STATIC_DATA_END), b.page_data([(0, 7)], [b.page(1)])]
        header = b.xl_header(struct.pack("<I", 0), flags=b.XL_V2)
        assert out == b.xl(b.libxl(b.libxc(records)), header)

    def test_an_unknown_xen_version_is_written_as_zero(self) -> None:
        out, _ = write([], ImageInfo("x", GuestType.X86_HVM, xen_version="unstable.x"), "libxc")
        assert open_reader(out, "libxc").info.xen_version == ""


class TestRefusals:
    """What would become a stream that no restorer takes, whoever asks for it."""

    def put(self, *events: Record | PageBatch, name: str = "xl") -> None:
        with pytest.raises((OutputError, StreamError)):
            write(events, HVM_INFO, name)

    def test_guests_and_page_sizes_that_xen_does_not_have(self) -> None:
        for info in (ImageInfo("x"), ImageInfo("x", GuestType.X86_PV, page_size=65536)):
            with pytest.raises(UsageError):
                write([], info, "libxc")

    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("xen.xl.header", b""),
            ("xen.xl.header", b.xl_header(flags=1)),
            ("xen.xl.header", b.xl_header() + b"\0"),
            ("xen.libxl.header", b.libxl_header(version=3)),
            ("xen.libxl.header", b.libxl_header()[:-1]),
            ("xen.libxc.header", b.libxc_header(version=4)),
            ("xen.libxc.header", b.libxc_header() + b"\0"),
            ("xen.libxc.header", b.libxc_header(guest=b.PV_TYPE)),
        ],
    )
    def test_headers_that_a_reader_would_refuse(self, name: str, body: bytes) -> None:
        self.put(Record(RecordType(name), body))

    def test_headers_that_come_twice_late_or_as_pages(self) -> None:
        header = Record(RecordType("xen.libxc.header"), b.libxc_header())
        self.put(header, header)
        self.put(Record(RecordType("xen.x86.tsc_info"), bytes(24)), header)
        kind = RecordType("xen.xl.header", mandatory=False)
        self.put(PageBatch(kind, np.array([1], np.uint64), None, 1))

    def test_padding_that_does_not_fill_up_to_8(self) -> None:
        self.put(Record(RecordType("xen.hvm.context"), bytes(8), padding=b"x"))
        self.put(Record(RecordType("xen.hvm.context"), bytes(7), padding=b"xx"))

    def test_records_of_another_guest_or_a_later_layout(self) -> None:
        self.put(Record(RecordType("xen.pv.info"), bytes(8)))
        self.put(Record(RecordType("xen.hvm.context", version=2), bytes(8)))
        self.put(Record(RecordType("xen.qemu.context", version=2), bytes(8)))

    def test_batches_that_xen_would_refuse(self) -> None:
        kind = RecordType("xen.hvm.page_data")
        none = np.zeros(0, np.uint64)
        self.put(PageBatch(kind, none, np.zeros((0, b.PAGE), np.uint8), 0))
        self.put(PageBatch(kind, np.array([1], np.uint64), None, 1))
        large = np.full(((128 << 20) // 8) + 1, b.XTAB << 60, np.uint64)
        self.put(PageBatch(kind, large, np.zeros((0, b.PAGE), np.uint8), 0))
        self.put(evolve(PageBatch(kind, large[:1], None, 0), type=RecordType("xen.pv.page_data")))

    @pytest.mark.parametrize(
        "wrong",
        [
            ["xen.qemu.context"],
            ["xen.libxl.end"],
            ["xen.libxl.checkpoint_end"],
            ["xen.libxc.checkpoint", "xen.libxl.end"],
            ["xen.libxc.checkpoint", "xen.libxl.checkpoint_end", "xen.qemu.context"],
            ["xen.libxc.end", "xen.libxl.checkpoint_end"],
            ["xen.libxc.end", "xen.x86.tsc_info"],
            ["xen.libxc.end", "xen.libxl.end", "xen.qemu.context"],
            ["xen.libxc.end", "xen.libxl.end", "xen.libxl.end"],
            ["xen.libxc.static_data_end", "xen.libxc.static_data_end"],
        ],
    )
    def test_records_where_the_nesting_has_no_place_for_them(self, wrong: list[str]) -> None:
        self.put(*(Record(RecordType(name), b"") for name in wrong))

    def test_a_hostile_native_image_does_not_become_a_xen_stream(
        self, manager: xsave.PluginManager
    ) -> None:
        """Its records are what it says they are, in the order it says, optional if it says
        so; without the plugins that would look at them only the writer stands between."""
        kind = RecordType("xen.libxc.header", mandatory=False)
        events = [Record(kind, b.libxc_header(version=7))]
        with pytest.raises(OutputError, match="libxc version"):
            xsave.run(Stream(events), Nowhere(), to="libxc", plugins=["native"], manager=manager)

    def test_the_order_is_that_of_the_restorer(self) -> None:
        events = [e for e in read(b.libxc(b.hvm()), "libxc") if e.name != "xen.libxc.end"]
        with pytest.raises(RecordError, match="expected once"):
            write([*events, Record(RecordType("xen.libxc.static_data_end"), b"")], HVM_INFO, "xl")


class Stream:
    """A source of ready-made events."""

    info = HVM_INFO

    def __init__(self, events: Sequence[Record | PageBatch]) -> None:
        self._events = events

    def __iter__(self) -> object:
        return iter(self._events)


class Nowhere:
    def write(self, data: object, /) -> object:
        return None
