"""Bytes in, records out: one reader for all nestings.

A libxl stream hands over to libxc with LIBXC_CONTEXT and gets control back at libxc's
END or CHECKPOINT; there is no length between the layers, so libxc must be parsed to find
what follows it (libxl-stream specification, revision 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from attrs import evolve

from xsave import (
    RESERVED_TYPES,
    TYPE_NAMES,
    ByteSource,
    FormatError,
    GuestType,
    ImageInfo,
    PageBatch,
    PageMode,
    RawEntries,
    Reader,
    ReadOptions,
    Record,
    RecordError,
    RecordType,
    UsageError,
)

from . import framing as f
from .headers import Fault, libvirt_fault, libxc_fault, libxl_fault, xl_fault
from .order import LibxcOrder
from .xapi import read_xapi_headers, read_xapi_parts

if TYPE_CHECKING:
    from xsave import Event


class XenReader:
    """:param format_: its name.
    :param layers: which headers the input begins with: ("xl", "libxl", "libxc"), or
        fewer from the left; "migration", "libvirt" or "xapi" may come first.
    """

    def __init__(
        self, source: ByteSource, format_: str, layers: tuple[str, ...], options: ReadOptions
    ) -> None:
        self._source = source
        self._layers = layers
        self._nested = options.nested
        # There is nothing to check in the contents: to be passed over is enough.
        self._skip_pages = options.pages in (PageMode.SKIP, PageMode.CHECK)
        self._headers: list[Record] = []
        details: dict[str, object] = {}
        if "migration" in layers:
            self._read_banner()
        if "xl" in layers:
            self._read_xl_header(details)
        if "libvirt" in layers:
            self._read_libvirt_header(details)
        if "xapi" in layers:
            self._headers += read_xapi_headers(source, details)
        if "libxl" in layers:
            self._read_libxl_header(details)
        self._inside = self._read_inside(options)
        if self._inside is not None:
            self.info = self._info_of(self._inside, format_, details)
            self._guest_type = self.info.guest_type
            self._order = LibxcOrder(3, self._guest_type)
            self._order.ended = True
            return
        guest_type, version, xen_version = self._read_libxc_header(details)
        self._guest_type = guest_type
        self._page_type = f.PAGE_DATA_TYPES[guest_type]
        self._order = LibxcOrder(version, guest_type)
        self.info = ImageInfo(
            format=format_,
            guest_type=guest_type,
            page_size=f.PAGE_BYTES,
            xen_version=xen_version,
            details=details,
        )

    def _read_inside(self, options: ReadOptions) -> Reader | None:
        """What stands where a libxc stream should, written by another save helper than Xen's;
        None for a libxc stream."""
        if "libxl" not in self._layers or self._source.peek(8) == f.LIBXC_MARKER:
            return None
        carried = options.pages is PageMode.CARRY  # by whom nothing is known
        return options.inside(self._source, PageMode.FULL if carried else options.pages)

    @staticmethod
    def _info_of(inside: Reader, format_: str, details: dict[str, object]) -> ImageInfo:
        info = inside.info
        if info.guest_type not in f.GUEST_NUMBERS or info.page_size != f.PAGE_BYTES:
            raise UsageError(
                f"the {info.format} stream inside is that of an {info.guest_type.value} guest with "
                f"pages of {info.page_size} bytes, which a libxl stream cannot hold"
            )
        details = {**info.details, **details, "inside": info.format}
        return evolve(info, format=format_, details=details)

    def __iter__(self) -> Iterator[Event]:
        yield from self._headers
        if "libxl" in self._layers:
            yield from self._libxl_records()
        elif "xapi" in self._layers:
            yield from self._xapi_records()
        else:
            yield from self._bare_libxc_records()
        if "xl" in self._layers:
            yield from self._handshake()
        if not self._nested and not self._source.at_end():
            raise FormatError(
                what="end of the image",
                offset=self._source.offset,
                expected="nothing after END",
                got="further bytes",
            )

    # -- headers ---------------------------------------------------------------------

    def _read_xl_header(self, details: dict[str, object]) -> None:
        offset = self._source.offset
        head = self._source.take(f.XlHeader.SIZE, "xl header")
        _refuse(xl_fault(head), offset)
        fields = f.XlHeader.decode(head)
        optional = self._source.take(fields.optional_data_len, "xl optional data")
        self._headers.append(_record(f.XL_HEADER, bytes(head) + bytes(optional), offset))
        details["xl_mandatory_flags"] = fields.mandatory_flags
        details["xl_optional_bytes"] = fields.optional_data_len

    def _read_banner(self) -> None:
        offset = self._source.offset
        banner = self._source.take(len(f.XL_BANNER), "banner of xl migrate")
        _expect("banner of xl migrate", offset, bytes(banner) == f.XL_BANNER,
                repr(f.XL_BANNER), bytes(banner))  # fmt: skip
        self._headers.append(_record(f.XL_HANDSHAKE, banner, offset))

    def _handshake(self) -> Iterator[Record]:
        """What the sender of `xl migrate`, or both ends, say behind the stream."""
        while (message := f.message_ahead(self._source.peek(64))) is not None:
            offset = self._source.offset
            yield _record(f.XL_HANDSHAKE, self._source.take(len(message), "handshake"), offset)

    def _read_libvirt_header(self, details: dict[str, object]) -> None:
        offset = self._source.offset
        head = self._source.take(f.LibvirtHeader.SIZE, "libvirt header")
        _refuse(libvirt_fault(head), offset)
        size = f.LibvirtHeader.decode(head).xml_len
        xml = self._source.take(size, "libvirt's domain XML")
        self._headers.append(_record(f.LIBVIRT_HEADER, bytes(head) + bytes(xml), offset))
        details["libvirt_xml_bytes"] = size

    def _read_libxl_header(self, details: dict[str, object]) -> None:
        offset = self._source.offset
        head = self._source.take(f.LIBXL_HEADER.size, "libxl header")
        _refuse(libxl_fault(head), offset)
        self._headers.append(_record(f.LIBXL_STREAM_HEADER, head, offset))
        details["libxl_options"] = int.from_bytes(head[12:16], "big")
        offset = self._source.offset
        number, length = self._record_header("libxl record", offset)
        _expect("first libxl record", offset, number == 1,
                "LIBXC_CONTEXT (1)", f"type {number:#x}")  # fmt: skip
        _expect("body_length of LIBXC_CONTEXT", offset, length == 0,
                "0: the libxc stream follows at once", str(length))  # fmt: skip
        self._headers.append(_record(f.LIBXC_CONTEXT, b"", offset))

    def _read_libxc_header(self, details: dict[str, object]) -> tuple[GuestType, int, str]:
        offset = self._source.offset
        size = f.LIBXC_IMAGE_HEADER.size
        head = self._source.take(size + f.LIBXC_DOMAIN_HEADER.size, "libxc headers")
        _refuse(libxc_fault(head), offset)
        version = int.from_bytes(head[12:16], "big")
        number, _, _, major, minor = f.LIBXC_DOMAIN_HEADER.unpack_from(head, size)
        self._headers.append(_record(f.LIBXC_STREAM_HEADER, head, offset))
        details["libxc_version"] = version
        if major == 0:
            details["converted_from_legacy"] = f"converter version {minor}"
        return f.GUEST_TYPES[number], version, f"{major}.{minor}" if major else ""

    # -- the two layers --------------------------------------------------------------

    def _bare_libxc_records(self) -> Iterator[Event]:
        """libxc without libxl: after a CHECKPOINT the next round follows at once, or
        nothing: a captured Remus stream ends wherever its connection broke."""
        while True:
            yield from self._libxc_round()
            if self._order.ended or self._source.at_end():
                return

    def _xapi_records(self) -> Iterator[Event]:
        while not self._order.ended:
            yield from self._libxc_round()
        yield from read_xapi_parts(self._source, self._guest_type)

    def _libxl_records(self) -> Iterator[Event]:
        yield from self._libxc_round() if self._inside is None else self._records_inside()
        while True:
            offset = self._source.offset
            number, length = self._record_header("libxl record", offset)
            row = f.LIBXL_BY_NUMBER.get(number)
            if row is None:
                raise FormatError(
                    what="libxl record type", offset=offset,
                    expected="0 to 5 (libxl accepts no unknown record)", got=f"{number:#x}",
                )  # fmt: skip
            _expect(row.spec_name, offset, self._guest_type in row.guests,
                    "an HVM guest", "a PV guest")  # fmt: skip
            closing = f.LIBXL_END if self._order.ended else f.CHECKPOINT_END
            if row.name in f.LIBXL_TURNS and row.name != closing:
                raise FormatError(
                    what="libxl record type", offset=offset,
                    expected=f"device-model records, then {f.LIBXL_BY_NAME[closing].spec_name}",
                    got=row.spec_name,
                )  # fmt: skip
            yield self._whole(f.TYPES[row.name], offset, length)
            if row.name == f.LIBXL_END:
                return
            if row.name == f.CHECKPOINT_END:
                if self._source.at_end():
                    return
                yield from self._libxc_round()

    def _records_inside(self) -> Iterator[Event]:
        """Marks of libxl's layer come from that itself."""
        assert self._inside is not None
        return (event for event in self._inside if event.name not in f.LIBXL_TURNS)

    def _libxc_round(self) -> Iterator[Event]:
        """Up to and including END or CHECKPOINT."""
        while True:
            offset = self._source.offset
            number, length = self._record_header("libxc record", offset)
            if number == f.PAGE_DATA:
                self._order.see(self._page_type.name, offset)
                yield self._page_data(offset, length)
                continue
            kind = self._libxc_type(number, offset)
            self._order.see(kind.name, offset)
            yield self._whole(kind, offset, length)
            if kind.name in (f.LIBXC_END, f.CHECKPOINT):
                return

    def _libxc_type(self, number: int, offset: int) -> RecordType:
        row = f.LIBXC_BY_NUMBER.get(number)
        if row is not None:
            if self._guest_type not in row.guests:
                raise RecordError(
                    record=row.name, offset=offset,
                    reason=f"expected a record of an {self._guest_type.value} guest, "
                    f"got {row.spec_name}",
                )  # fmt: skip
            return f.TYPES[row.name]
        if number & f.OPTIONAL:
            return RecordType(f.unknown_name(number), mandatory=False)
        what = "TOOLSTACK, which no restorer accepts" if number == f.TOOLSTACK else "unknown"
        raise FormatError(
            what="libxc record type", offset=offset,
            expected="a known type, or one with bit 31 set (optional)",
            got=f"{number:#010x} ({what})",
        )  # fmt: skip

    # -- records ---------------------------------------------------------------------

    def _record_header(self, what: str, offset: int) -> tuple[int, int]:
        number, length = f.RECORD_HEADER.unpack(self._source.take(8, f"header of a {what}"))
        if length > f.BODY_MAX:
            raise FormatError(
                what=f"body_length of a {what} of type {number:#x}", offset=offset,
                expected=f"at most {f.BODY_MAX} bytes", got=str(length),
            )  # fmt: skip
        return number, length

    def _whole(self, kind: RecordType, offset: int, length: int) -> Record:
        padded = self._source.take(length + (-length & 7), f"body of {kind.name}")
        padding = bytes(padded[length:])
        return Record(kind, padded[:length], offset, padding if any(padding) else b"")

    def _page_data(self, offset: int, length: int) -> PageBatch:
        name = self._page_type.name
        if length < f.PAGE_DATA_HEADER.size:
            raise _page_error(name, offset, "body_length", "at least 8 bytes", length)
        count, reserved = f.PAGE_DATA_HEADER.unpack(self._source.take(8, f"header of {name}"))
        if count == 0:
            raise _page_error(name, offset, "count", "at least 1", 0)
        if length < 8 + 8 * count:
            raise _page_error(name, offset, "body_length", f"at least {8 + 8 * count}", length)
        entries = RawEntries(self._source.take(8 * count, f"entries of {name}"))
        _refuse_reserved(name, offset, entries)
        nr_pages = entries.nr_pages()
        size = f.PAGE_BYTES * nr_pages
        if length != 8 + 8 * count + size:
            raise _page_error(
                name, offset, "body_length",
                f"{8 + 8 * count + size} for {count} entries of which {nr_pages} carry a page",
                length,
            )  # fmt: skip
        pages = None
        if self._skip_pages:
            self._source.skip(size, f"pages of {name}")
        else:
            import numpy as np

            contents = self._source.take(size, f"pages of {name}")
            pages = np.frombuffer(contents, np.uint8).reshape(nr_pages, f.PAGE_BYTES)
        return PageBatch(self._page_type, entries, pages, nr_pages, offset, reserved)


def _record(name: str, body: bytes | memoryview, offset: int) -> Record:
    return Record(RecordType(name, mandatory=name not in f.OPTIONAL_HEADERS), body, offset)


def _refuse(fault: Fault | None, offset: int) -> None:
    """:param offset: of the header."""
    if fault is not None:
        raise FormatError(
            what=fault.what, offset=offset + fault.at, expected=fault.expected, got=fault.got
        )


def _expect(what: str, offset: int, fine: bool, expected: str, got: object) -> None:
    if not fine:
        raise FormatError(what=what, offset=offset, expected=expected, got=str(got))


def _page_error(name: str, offset: int, field: str, expected: str, got: int) -> RecordError:
    return RecordError(
        record=name, offset=offset, reason=f"{field}: expected {expected}, got {got}"
    )


def _refuse_reserved(name: str, offset: int, entries: RawEntries) -> None:
    if (found := entries.first_of(RESERVED_TYPES)) is None:
        return
    at, pfn, kind = found
    raise RecordError(
        record=name, offset=offset,
        reason=f"entry {at} (pfn {pfn:#x}): expected a page type, got {TYPE_NAMES[kind]}",
    )  # fmt: skip
