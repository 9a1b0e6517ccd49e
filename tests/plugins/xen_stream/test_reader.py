"""What a restorer must refuse is refused, with record, offset, expected and got; what it
must tolerate is read. Contents of records that other plugins own are theirs to test.

Conditions: libxc migration stream revision 3 and its restorers ("what must be refused",
errata); libxl migration stream revision 2; xl's file header.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

import xsave
from tests.plugins.xen_stream import build as b
from tests.plugins.xen_stream.streams import names, open_reader, read
from xsave import FormatError, PageBatch, PageMode, Record, RecordError, StreamError, TruncatedError

HEADERS = 40  # bytes of libxc's two headers
STATIC = len(b.join([*b.policies(), b.Rec(b.STATIC_DATA_END)]))


def refused(data: bytes, *parts: str, name: str = "libxc", offset: int | None = None) -> None:
    """It is refused, the message has these parts, and names this offset."""
    for mode in PageMode:
        with pytest.raises(StreamError) as caught:
            read(data, name, mode)
        message = str(caught.value)
        for part in parts:
            assert part in message, message
        assert re.search(r"at offset 0x[0-9a-f]+", message), message
        assert "expected" in message and "got" in message, message
        if offset is not None:
            assert f"at offset {offset:#x}" in message, message


def hvm_with(*records: b.Rec, version: int = 3) -> bytes:
    """An HVM stream whose memory is these records."""
    static = [*b.policies(), b.Rec(b.STATIC_DATA_END)] if version >= 3 else []
    return b.libxc([*static, *records, *b.hvm_state()], version=version)


AT_MEMORY = HEADERS + STATIC


class TestLibxcHeaders:
    def test_a_wrong_marker_is_refused(self) -> None:
        header = b.libxc_header(marker=b"\xff" * 7 + b"\xfe")
        refused(b.libxc(b.hvm(), header=header), "libxc marker", "fffffffffffffffe", offset=0)

    def test_a_wrong_id_is_refused(self) -> None:
        refused(b.libxc(b.hvm(), header=b.libxc_header(ident=b"XENG")), "XENF", "XENG", offset=8)

    @pytest.mark.parametrize("version", [0, 1, 4, 0xFFFFFFFF])
    def test_a_version_outside_2_to_3_is_refused(self, version: int) -> None:
        data = b.libxc(b.hvm(), header=b.libxc_header(version))
        refused(data, "libxc version", "2 or 3", f"got {version}", offset=12)

    def test_a_big_endian_stream_is_refused(self) -> None:
        data = b.libxc(b.hvm(), header=b.libxc_header(options=1))
        refused(data, "libxc options", "little-endian", "big-endian", offset=16)

    @pytest.mark.parametrize("guest", [0, 3, 4, 0x01000000])
    def test_an_unknown_domain_type_is_refused(self, guest: int) -> None:
        data = b.libxc(b.hvm(), header=b.libxc_header(guest=guest))
        refused(data, "domain type", "1 (x86 PV) or 2 (x86 HVM)", f"got {guest}", offset=24)

    @pytest.mark.parametrize("shift", [0, 11, 13, 21])
    def test_a_page_shift_other_than_12_is_refused(self, shift: int) -> None:
        data = b.libxc(b.hvm(), header=b.libxc_header(page_shift=shift))
        refused(data, "page_shift", "expected 12", f"got {shift}", offset=28)

    def test_reserved_fields_and_option_bits_are_tolerated(self) -> None:
        header = b.libxc_header(options=0xFFFE, reserved=(0xFFFF, 0xFFFFFFFF, 0xFFFF))
        found = read(b.libxc(b.hvm(), header=header), "libxc")[0]
        assert isinstance(found, Record)
        assert bytes(found.body) == header

    def test_the_headers_tell_version_and_origin(self) -> None:
        info = open_reader(b.libxc(b.hvm()), "libxc").info
        assert (info.guest_type, info.xen_version) == (xsave.GuestType.X86_HVM, "4.17")
        converted = b.libxc(b.pv(), header=b.libxc_header(guest=b.PV_TYPE, xen=(0, 1)))
        info = open_reader(converted, "libxc").info
        assert (info.guest_type, info.xen_version) == (xsave.GuestType.X86_PV, "")
        assert info.details["converted_from_legacy"] == "converter version 1"


class TestLibxcRecords:
    def test_a_body_length_above_128_mib_is_refused(self) -> None:
        for number in (b.HVM_CONTEXT, b.PAGE_DATA, b.UNKNOWN_OPTIONAL):
            data = hvm_with(b.Rec(number, b"", length=(128 << 20) + 1))
            refused(data, "body_length", f"{number:#x}", "at most 134217728", "134217729",
                    offset=AT_MEMORY)  # fmt: skip

    def test_the_limit_is_checked_before_rounding_up(self) -> None:
        data = hvm_with(b.Rec(b.UNKNOWN_OPTIONAL, b"", length=128 << 20))
        with pytest.raises(TruncatedError):
            read(data, "libxc")

    def test_a_stream_that_ends_inside_a_record_is_refused_as_cut(self) -> None:
        data = b.libxc(b.hvm())
        for size in range(0, len(data), 2):
            with pytest.raises(TruncatedError, match=r"the image is cut: .*expected .*, got"):
                read(data[:size], "libxc", PageMode.SKIP)

    def test_an_unknown_mandatory_type_is_refused(self) -> None:
        for number in (0x13, 0x7FFFFFFF):
            refused(hvm_with(b.Rec(number)), "libxc record type", f"{number:#010x} (unknown)",
                    offset=AT_MEMORY)  # fmt: skip

    def test_toolstack_is_refused(self) -> None:
        refused(hvm_with(b.Rec(b.TOOLSTACK, bytes(8))), "0x0000000b", "TOOLSTACK",
                offset=AT_MEMORY)  # fmt: skip

    def test_an_unknown_optional_record_is_passed_on_as_optional(self) -> None:
        data = hvm_with(b.Rec(b.UNKNOWN_OPTIONAL, b"whatever it is"))
        found = next(e for e in read(data, "libxc") if "optional" in e.name)
        assert found.name == "xen.libxc.optional_0x80000042"
        assert isinstance(found, Record)
        assert (bytes(found.body), found.type.mandatory) == (b"whatever it is", False)

    @pytest.mark.parametrize(
        "number", [b.PV_INFO, b.P2M_FRAMES, b.VCPU_BASIC, b.VCPU_MSRS, b.SHARED_INFO]
    )
    def test_a_pv_record_in_an_hvm_stream_is_refused(self, number: int) -> None:
        data = b.libxc([*b.hvm(), b.Rec(number, bytes(8))], header=b.libxc_header())
        refused(data, "xen.pv.", "x86_hvm")

    @pytest.mark.parametrize("number", [b.HVM_CONTEXT, b.HVM_PARAMS])
    def test_an_hvm_record_in_a_pv_stream_is_refused(self, number: int) -> None:
        refused(b.libxc([*b.pv(), b.Rec(number, bytes(8))]), "xen.hvm.", "x86_pv")

    def test_trailing_bytes_are_refused(self) -> None:
        data = b.libxc(b.hvm())
        for more in (b"\0", bytes(8), b"\xff" * 100, data):
            refused(data + more, "nothing after END", "further bytes", offset=len(data))

    def test_padding_is_kept_when_it_is_not_zero(self) -> None:
        odd = b.Rec(b.HVM_PARAMS, b"12345", padding=b"abc")
        found = [e for e in read(hvm_with(odd), "libxc") if e.name == "xen.hvm.params"]
        assert isinstance(found[0], Record)
        assert (bytes(found[0].body), found[0].padding) == (b"12345", b"abc")

    def test_offsets_are_those_of_the_record_headers(self) -> None:
        data = b.xl(b.libxl(b.libxc(b.hvm())))
        for event in read(data, "xl"):
            if isinstance(event, PageBatch):
                (number, _) = struct.unpack_from("<II", data, event.offset)
                assert number == b.PAGE_DATA
        end = read(data, "xl")[-1]
        assert (end.name, end.offset) == ("xen.libxl.end", len(data) - 8)


class TestPageData:
    def test_a_body_shorter_than_8_is_refused(self) -> None:
        for size in range(8):
            data = hvm_with(b.Rec(b.PAGE_DATA, bytes(size)))
            refused(data, "xen.hvm.page_data", "body_length", "at least 8", f"got {size}",
                    offset=AT_MEMORY)  # fmt: skip

    def test_a_count_of_zero_is_refused(self) -> None:
        refused(hvm_with(b.page_data([])), "count: expected at least 1, got 0", offset=AT_MEMORY)

    def test_a_body_too_short_for_the_count_is_refused(self) -> None:
        short = b.page_data([(b.XTAB, 0)], count=2)
        refused(hvm_with(short), "body_length: expected at least 24, got 16", offset=AT_MEMORY)
        huge = b.page_data([(b.XTAB, 0)], count=0xFFFFFFFF)
        refused(hvm_with(huge), "body_length", "at least 34359738368", offset=AT_MEMORY)

    def test_a_total_size_that_does_not_match_is_refused(self) -> None:
        good = b.page_data([(0, 0), (b.XTAB, 1)], [b.page(1)])
        missing = b.page_data([(0, 0), (0, 1)], [b.page(1)])
        more = b.page_data([(b.XTAB, 0)], [b.page(1)])
        for record in (missing, more, b.shorter(good, 8)):
            refused(hvm_with(record), "xen.hvm.page_data", "body_length: expected",
                    f"got {len(record.body)}", offset=AT_MEMORY)  # fmt: skip

    @pytest.mark.parametrize("nibble", [5, 6, 7, 8])
    def test_a_reserved_page_type_is_refused(self, nibble: int) -> None:
        for contents in ([b.page(1)], [b.page(1), b.page(2)]):
            record = b.page_data([(0, 7), (nibble, 0x1234)], contents)
            refused(hvm_with(record), "entry 1 (pfn 0x1234)", f"reserved{nibble}",
                    offset=AT_MEMORY)  # fmt: skip

    def test_pages_before_static_data_end_are_refused_in_version_3(self) -> None:
        records = [*b.policies(), *b.hvm_memory()]
        refused(b.libxc(records), "xen.hvm.page_data", "STATIC_DATA_END", "version 3",
                offset=HEADERS + len(b.join(b.policies())))  # fmt: skip

    def test_reserved_bits_of_an_entry_are_kept(self) -> None:
        entry = 0x0FF << 52 | 3
        record = b.Rec(b.PAGE_DATA, struct.pack("<IIQ", 1, 0xABCD, entry) + b.page(1))
        batch = next(e for e in read(hvm_with(record), "libxc") if isinstance(e, PageBatch))
        assert batch.entries.tolist() == [entry]
        assert (batch.pfns.tolist(), batch.reserved) == ([3], 0xABCD)

    def test_every_type_carries_what_the_table_says(self) -> None:
        carrying = [0, 1, 2, 3, 4, 9, 10, 11, 12]
        for nibble in [*carrying, b.BROKEN, b.XALLOC, b.XTAB]:
            contents = [b.page(7)] if nibble in carrying else []
            data = hvm_with(b.page_data([(nibble, 9)], contents))
            batch = next(e for e in read(data, "libxc") if isinstance(e, PageBatch))
            assert batch.nr_pages == len(contents)
            assert batch.pages is not None
            assert batch.pages.tobytes() == b"".join(contents)

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, 15), st.integers(0, (1 << 52) - 1)), max_size=12),
        st.integers(0, 13),
        st.integers(-9, 9),
    )
    def test_a_batch_is_refused_or_its_sizes_add_up(
        self, entries: list[tuple[int, int]], nr_contents: int, shift: int
    ) -> None:
        record = b.page_data(entries, [b.page(1)] * nr_contents)
        data = hvm_with(evolve(record, length=max(len(record.body) + shift, 0)))
        try:
            events = read(data, "libxc")
        except StreamError:
            return
        batch = next(e for e in events if isinstance(e, PageBatch))
        assert batch.pages is not None
        assert len(batch.pages) == batch.nr_pages == nr_contents
        assert not np.isin(batch.types, [5, 6, 7, 8]).any()


class TestErrata:
    """What real streams have and no specification allows."""

    def test_variable_records_without_content_pass(self, manager: xsave.PluginManager) -> None:
        empty = [b.Rec(n, struct.pack("<II", 7, 0)) for n in (b.VCPU_EXTENDED, b.VCPU_XSAVE)]
        for records in (
            [*b.hvm(), b.hvm_params()],
            [*b.pv(), *empty, b.Rec(b.VCPU_MSRS, struct.pack("<II", 0xFFFFFFFF, 0))],
        ):
            verify(b.libxc(records), manager)

    def test_context_and_params_come_in_either_order(self, manager: xsave.PluginManager) -> None:
        *before, context, params = b.hvm()
        verify(b.libxc([*before, context, params]), manager)
        verify(b.libxc([*before, params, context]), manager)

    def test_a_converted_image_may_have_xalloc_two_params_and_no_policies(
        self, manager: xsave.PluginManager
    ) -> None:
        records = [
            b.Rec(b.STATIC_DATA_END),
            b.page_data([(b.XALLOC, 5), (0, 0)], [b.page(1)]),
            *b.hvm_state(),
            b.hvm_params((17, 0xFEFFF)),
        ]
        verify(b.libxc(records, header=b.libxc_header(xen=(0, 1))), manager)

    def test_verify_and_a_second_copy_of_the_pages_pass(self, manager: xsave.PluginManager) -> None:
        records = b.hvm()
        at = records.index(b.tsc_info())
        memory = b.hvm_memory()
        verify(b.libxc([*records[:at], b.Rec(b.VERIFY), *memory, *records[at:]]), manager)

    def test_a_colo_pfn_list_with_the_spurious_first_element_is_read(
        self, manager: xsave.PluginManager
    ) -> None:
        spurious = b.Rec(b.DIRTY_PFN_LIST, struct.pack("<QQQ", 0, 5, 9))
        verify(b.libxc([*b.hvm(), spurious]), manager)


class TestLibxl:
    def test_a_wrong_ident_is_refused(self) -> None:
        data = b.libxl(b.libxc(b.hvm()), header=b.libxl_header(ident=b"LibxlFmu"))
        refused(data, "libxl ident", "LibxlFmt", "LibxlFmu", name="libxl", offset=0)

    @pytest.mark.parametrize("version", [0, 1, 3])
    def test_another_version_is_refused(self, version: int) -> None:
        data = b.libxl(b.libxc(b.hvm()), header=b.libxl_header(version=version))
        refused(data, "libxl version", "expected 2", f"got {version}", name="libxl", offset=8)

    def test_a_big_endian_stream_is_refused(self) -> None:
        data = b.libxl(b.libxc(b.hvm()), header=b.libxl_header(options=1))
        refused(data, "libxl options", "big-endian", name="libxl", offset=12)

    def test_other_option_bits_are_tolerated(self) -> None:
        header = b.libxl_header(options=0xFFFFFFFE)
        found = read(b.libxl(b.libxc(b.hvm()), header=header), "libxl")
        assert isinstance(found[0], Record)
        assert bytes(found[0].body) == header

    def test_the_first_record_must_be_libxc_context(self) -> None:
        data = b.libxl(b.libxc(b.hvm()), context=b.Rec(b.LIBXL_END))
        refused(data, "LIBXC_CONTEXT (1)", "type 0x0", name="libxl", offset=16)

    def test_libxc_context_must_be_empty(self) -> None:
        data = b.libxl(b.libxc(b.hvm()), context=b.Rec(b.LIBXC_CONTEXT, bytes(8)))
        refused(data, "LIBXC_CONTEXT", "expected 0", "got 8", name="libxl", offset=16)

    @pytest.mark.parametrize("number", [6, 0x7FFFFFFF, 0x80000000, 0x80000002])
    def test_unknown_records_are_refused_optional_or_not(self, number: int) -> None:
        inner = b.libxc(b.hvm())
        data = b.libxl(inner, [b.Rec(number), b.Rec(b.LIBXL_END)])
        refused(data, "libxl record type", "0 to 5", f"got {number:#x}", name="libxl",
                offset=24 + len(inner))  # fmt: skip

    @pytest.mark.parametrize("number", [b.XENSTORE_DATA, b.EMULATOR_CONTEXT])
    def test_emulator_records_of_a_pv_guest_are_refused(self, number: int) -> None:
        data = b.libxl(b.libxc(b.pv()), [b.emulator(number), b.Rec(b.LIBXL_END)])
        refused(data, "EMULATOR_", "an HVM guest", "a PV guest", name="libxl")

    @pytest.mark.parametrize("number", [b.LIBXC_CONTEXT, b.CHECKPOINT_END])
    def test_after_libxc_end_only_libxl_end_closes(self, number: int) -> None:
        inner = b.libxc(b.hvm())
        data = b.libxl(inner, [b.Rec(number), b.Rec(b.LIBXL_END)])
        refused(data, "device-model records, then END", name="libxl", offset=24 + len(inner))

    @pytest.mark.parametrize("number", [b.LIBXC_CONTEXT, b.LIBXL_END])
    def test_after_a_checkpoint_only_checkpoint_end_closes(self, number: int) -> None:
        inner = b.libxc([*b.hvm(), b.Rec(b.CHECKPOINT)], end=False)
        data = b.libxl(inner, [b.Rec(number)])
        refused(data, "then CHECKPOINT_END", name="libxl", offset=24 + len(inner))

    def test_a_body_length_above_128_mib_is_refused(self) -> None:
        huge = b.Rec(b.EMULATOR_CONTEXT, b"", length=0xFFFFFFFF)
        refused(b.libxl(b.libxc(b.hvm()), [huge]), "body_length of a libxl record",
                "at most 134217728", "4294967295", name="libxl")  # fmt: skip

    def test_trailing_bytes_are_refused(self) -> None:
        data = b.libxl(b.libxc(b.hvm()))
        refused(data + b"\0", "nothing after END", name="libxl", offset=len(data))

    def test_emulator_records_come_with_their_bodies(self) -> None:
        records = [b.emulator(b.XENSTORE_DATA, b"a\0b\0"), b.emulator(), b.Rec(b.LIBXL_END)]
        found = read(b.libxl(b.libxc(b.hvm()), records), "libxl")[-3:]
        assert names(found) == ["xen.qemu.xenstore_data", "xen.qemu.context", "xen.libxl.end"]
        assert [bytes(e.body) for e in found if isinstance(e, Record)] == [
            record.body for record in records
        ]


class TestXl:
    INNER = b.libxl(b.libxc(b.hvm()))

    def refused(self, header: bytes, *parts: str, offset: int) -> None:
        refused(b.xl(self.INNER, header), *parts, name="xl", offset=offset)

    def test_a_wrong_magic_is_refused(self) -> None:
        self.refused(b.xl_header(magic=b"X" * 32), "xl magic", offset=0)

    @pytest.mark.parametrize("byteorder", [0x04030201, 0, 0x01020305])
    def test_another_byteorder_is_refused(self, byteorder: int) -> None:
        self.refused(b.xl_header(byteorder=byteorder), "xl byteorder", "little-endian",
                     f"got {byteorder:#010x}", offset=32)  # fmt: skip

    @pytest.mark.parametrize("bit", range(2, 32))
    def test_an_unknown_mandatory_flag_is_refused(self, bit: int) -> None:
        self.refused(b.xl_header(flags=3 | 1 << bit), "xl mandatory flags", "outside 0x3",
                     offset=36)  # fmt: skip

    @pytest.mark.parametrize("flags", [0, 1])
    def test_a_legacy_stream_is_refused_by_name(self, flags: int) -> None:
        self.refused(b.xl_header(flags=flags), "stream v2 bit", "a legacy stream", offset=36)

    def test_optional_data_beyond_bounds_is_refused_before_it_is_read(self) -> None:
        for size in ((16 << 20) + 1, 0xFFFFFFFF):
            self.refused(b.xl_header(optional_data_len=size), "optional_data_len",
                         "at most 16777216", f"got {size}", offset=44)  # fmt: skip

    def test_optional_flags_are_ignored(self) -> None:
        assert read(b.xl(self.INNER, b.xl_header(optional_flags=0xFFFFFFFF)), "xl")

    @pytest.mark.parametrize(
        "optional", [b"", struct.pack("<I", 0), struct.pack("<I", 2) + b"{}" + b"a tail"]
    )
    def test_any_optional_data_is_found_again(
        self, optional: bytes, manager: xsave.PluginManager
    ) -> None:
        header = b.xl_header(optional)
        found = read(b.xl(self.INNER, header), "xl")[0]
        assert isinstance(found, Record)
        assert bytes(found.body) == header
        verify(b.xl(self.INNER, header), manager)

    @pytest.mark.parametrize("optional", [b"\0", b"\0\0\0", struct.pack("<I", 3) + b"{}"])
    def test_a_config_len_beyond_the_optional_data_is_refused(
        self, optional: bytes, manager: xsave.PluginManager
    ) -> None:
        with pytest.raises(RecordError, match=r"xen\.xl\.header at offset 0x0: config_len"):
            verify(b.xl(self.INNER, b.xl_header(optional)), manager)

    def test_a_stream_at_any_parity_is_read(self) -> None:
        for size in range(9):
            optional = struct.pack("<I", size) + b"x" * size
            assert read(b.xl(self.INNER, b.xl_header(optional)), "xl")


class TestRemus:
    @pytest.mark.parametrize("nr_rounds", [0, 1, 3])
    def test_a_captured_bare_stream_ends_after_a_checkpoint(self, nr_rounds: int) -> None:
        found = names(read(b.bare_remus(b.hvm(), [b.hvm_round()] * nr_rounds), "libxc"))
        assert found.count("xen.libxc.checkpoint") == nr_rounds + 1
        assert found[-1] == "xen.libxc.checkpoint"

    @pytest.mark.parametrize("nr_rounds", [0, 1, 3])
    def test_a_captured_nested_stream_ends_after_checkpoint_end(self, nr_rounds: int) -> None:
        data = b.nested_remus(b.hvm(), [b.hvm_round()] * nr_rounds, [b.emulator()])
        found = names(read(data, "libxl"))
        assert found.count("xen.qemu.context") == nr_rounds + 1
        assert found[-2:] == ["xen.qemu.context", "xen.libxl.checkpoint_end"]

    def test_a_stream_cut_anywhere_else_is_refused(self) -> None:
        rounds = [b.hvm_round()]
        cases = [
            ("libxc", b.bare_remus(b.hvm(), rounds), len(b.bare_remus(b.hvm(), []))),
            ("libxl", b.nested_remus(b.hvm(), rounds), len(b.nested_remus(b.hvm(), []))),
        ]
        for name, data, whole in cases:
            for size in range(0, len(data), 3):
                if size == whole:
                    continue
                with pytest.raises(TruncatedError):
                    read(data[:size], name, PageMode.SKIP)

    def test_a_nested_stream_that_ends_before_checkpoint_end_is_cut(self) -> None:
        data = b.libxl(b.libxc([*b.hvm(), b.Rec(b.CHECKPOINT)], end=False), [b.emulator()])
        with pytest.raises(TruncatedError):
            read(data, "libxl")

    def test_an_orderly_end_is_read(self, manager: xsave.PluginManager) -> None:
        verify(b.bare_remus(b.pv(), [b.pv_round()], end=True), manager)
        verify(b.nested_remus(b.pv(), [b.pv_round()], end=True), manager)

    def test_headers_and_static_data_are_not_repeated(self) -> None:
        again = [b.Rec(b.STATIC_DATA_END), *b.hvm_round()]
        refused(b.bare_remus(b.hvm(), [again]), "xen.libxc.static_data_end", "expected once")

    def test_colo_states_are_read(self) -> None:
        state = b.Rec(b.CHECKPOINT_STATE, struct.pack("<I", 0))
        found = names(read(b.nested_remus(b.hvm(), [], [state]), "libxl"))
        assert found[-2:] == ["xen.libxl.checkpoint_state", "xen.libxl.checkpoint_end"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_change_is_refused_or_read_but_never_breaks(data: st.DataObject) -> None:
    name, image = data.draw(
        st.sampled_from(
            [
                ("xl", b.xl(b.libxl(b.libxc(b.hvm()), [b.emulator(), b.Rec(b.LIBXL_END)]))),
                ("libxl", b.nested_remus(b.pv(), [b.pv_round()])),
                ("libxc", b.bare_remus(b.hvm(2), [b.hvm_round()], end=True)),
            ]
        )
    )
    changed = bytearray(image)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(StreamError):
        read(bytes(changed), name)


def verify(data: bytes, manager: xsave.PluginManager) -> None:
    """Accepted by the whole pipeline."""
    xsave.verify(io.BytesIO(data), manager=manager)


def test_errors_of_the_framing_are_format_errors_with_fields() -> None:
    with pytest.raises(FormatError) as caught:
        read(b.libxc(b.hvm(), header=b.libxc_header(9)), "libxc")
    error = caught.value
    assert (error.what, error.offset, error.expected, error.got) == (
        "libxc version", 12, "2 or 3", "9",
    )  # fmt: skip
