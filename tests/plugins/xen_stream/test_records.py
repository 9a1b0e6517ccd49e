"""The handlers of the records that frame a stream, by the contract's own suite."""

from __future__ import annotations

import json
import struct
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.plugins.xen_stream import build as b
from xsave import FieldError, GuestType, Handler, RecordHandler
from xsave.testing import HandlerSuite
from xsave_plugins.xen_stream import framing as f
from xsave_plugins.xen_stream import records as r


class TestXlHeader(HandlerSuite):
    handler: ClassVar[RecordHandler[Any]] = r.XlHeaderHandler()
    bodies = (
        b.xl_header(),
        b.xl_header(b""),
        b.xl_header(struct.pack("<I", 0), flags=b.XL_V2),
        b.xl_header(struct.pack("<I", 3) + b"{}\0and a tail"),
        b.xl_header(struct.pack("<I", 5) + b"name=", flags=b.XL_V2, optional_flags=7),
    )
    refused = (
        b"",
        bytes(48),
        b.xl_header()[:-1],
        b.xl_header() + b"\0",
        b.xl_header(flags=4 | b.XL_V2),
        b.xl_header(flags=1),
        b.xl_header(byteorder=0x04030201),
        b.xl_header(b"\0\0\0"),
        b.xl_header(struct.pack("<I", 1)),
    )

    def test_a_json_configuration_is_shown_as_json(self) -> None:
        state = self.handler.decode(memoryview(b.xl_header()))
        shown = self.handler.describe(state, {})
        assert shown["config"]["c_info"]["name"] == "small"

    def test_what_is_marked_as_json_and_is_none_is_shown_as_text(self) -> None:
        for text in (b"{", b"\xff\xfe", b"[" * 100_000):
            header = b.xl_header(struct.pack("<I", len(text)) + text)
            shown = self.handler.describe(self.handler.decode(memoryview(header)), {})
            assert "not" in shown["config_error"]
            json.dumps(shown)


class TestLibxlHeader(HandlerSuite):
    handler: ClassVar[RecordHandler[Any]] = r.LibxlHeaderHandler()
    bodies = (b.libxl_header(), b.libxl_header(options=2), b.libxl_header(options=0xFFFFFFFE))
    refused = (
        b"",
        b.libxl_header()[:-1],
        b.libxl_header() + b"\0",
        b.libxl_header(ident=b"LibxlFmx"),
        b.libxl_header(version=1),
        b.libxl_header(options=1),
    )

    def test_the_legacy_converters_mark_is_shown(self) -> None:
        state = self.handler.decode(memoryview(b.libxl_header(options=2)))
        assert self.handler.describe(state, {})["converted_from_legacy"] is True


class TestLibxcHeader(HandlerSuite):
    handler: ClassVar[RecordHandler[Any]] = r.LibxcHeaderHandler()
    bodies = (
        b.libxc_header(),
        b.libxc_header(2, b.PV_TYPE, xen=(0, 1)),
        b.libxc_header(options=0xFFFE, reserved=(1, 2, 3)),
    )
    refused = (
        b"",
        b.libxc_header()[:-1],
        b.libxc_header() + b"\0",
        b.libxc_header(1),
        b.libxc_header(4),
        b.libxc_header(guest=3),
        b.libxc_header(page_shift=13),
        b.libxc_header(options=1),
        b.libxc_header(ident=b"xenf"),
        b.libxc_header(marker=bytes(8)),
    )


class TestCheckpointState(HandlerSuite):
    handler: ClassVar[RecordHandler[Any]] = r.CheckpointStateHandler()
    bodies = tuple(struct.pack("<I", number) for number in (0, 1, 2, 3, 9))
    refused = (b"", b"\0\0\0", bytes(8))


class TestCheckpointDirtyPfnList(HandlerSuite):
    handler: ClassVar[RecordHandler[Any]] = r.CheckpointDirtyPfnListHandler()
    bodies = (b"", struct.pack("<3Q", 0, 7, 1 << 51))
    refused = (b"\0", bytes(12))

    def test_pfns_come_in_the_order_of_the_body(self) -> None:
        state = self.handler.decode(memoryview(struct.pack("<3Q", 9, 2, 7)))
        assert np.array_equal(state.pfns, [9, 2, 7])


EMPTY = [
    r.LibxcContextHandler(), r.StaticDataEndHandler(), r.VerifyHandler(), r.CheckpointHandler(),
    r.LibxcEndHandler(), r.CheckpointEndHandler(), r.LibxlEndHandler(),
]  # fmt: skip


@pytest.mark.parametrize("handler", EMPTY, ids=lambda handler: handler.name)
def test_a_record_that_only_marks_a_place_has_no_body(handler: RecordHandler[None]) -> None:
    handler.decode(memoryview(b""))
    assert b"".join(handler.encode(None)) == b""
    for body in (b"\0", bytes(8)):
        with pytest.raises(FieldError, match=f"body: expected 0 bytes, got {len(body)}"):
            handler.decode(memoryview(body))


def test_every_framing_record_has_a_handler() -> None:
    rows = {row.name for row in (*f.LIBXC_ROWS, *f.LIBXL_ROWS)}
    framing = {name for name in rows if name.startswith(("xen.libxc.", "xen.libxl."))}
    headers = {f.XL_HEADER, f.LIBXL_STREAM_HEADER, f.LIBXC_STREAM_HEADER, *f.OPTIONAL_HEADERS}
    framing |= {row.name for row in f.XAPI_ROWS}
    assert {handler.name for handler in r.HANDLERS} == framing | headers


def test_framing_records_are_of_every_guest() -> None:
    for handler in r.HANDLERS:
        assert isinstance(handler, Handler)
        assert {GuestType.X86_PV, GuestType.X86_HVM} <= handler.guest_types


def test_numbers_and_names_are_given_once() -> None:
    for rows in (f.LIBXC_ROWS, f.LIBXL_ROWS):
        assert len({row.number for row in rows}) == len({row.name for row in rows}) == len(rows)
    assert not set(f.LIBXC_BY_NAME) & set(f.LIBXL_BY_NAME)
    assert not {f.PAGE_DATA, f.TOOLSTACK} & set(f.LIBXC_BY_NUMBER)


@pytest.mark.parametrize("number", [0x80000000, 0x80000042, 0xFFFFFFFF])
def test_an_unknown_optional_number_survives_in_its_name(number: int) -> None:
    assert f.unknown_number(f.unknown_name(number)) == number


@pytest.mark.parametrize(
    "name",
    ["xen.libxc.end", "xen.libxc.optional_", "xen.libxc.optional_0x00000042",
     "xen.libxc.optional_0x180000042", "xen.libxc.optional_many", "xen.libxc.optional_-1"],
)  # fmt: skip
def test_no_other_name_means_a_number(name: str) -> None:
    assert f.unknown_number(name) is None
