"""Records in, bytes out: the mirror of ``reader.py``.

What a stream was read with (headers, versions, odd padding) is written back as it was.
What is missing, because the records came from elsewhere, is filled in: headers, the hand
over to libxc, the ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsave import (
    ByteSink,
    ImageInfo,
    OutputError,
    Record,
    UsageError,
)

from . import framing as f
from .headers import Fault, libxc_fault, libxl_fault, xl_fault
from .order import LibxcOrder

if TYPE_CHECKING:
    from xsave import Event, PageBatch

_HEADERS = (f.XL_HEADER, f.LIBXL_STREAM_HEADER, f.LIBXC_CONTEXT, f.LIBXC_STREAM_HEADER)


class XenWriter:
    """:param layers: of headers to write: ("xl", "libxl", "libxc"), or fewer from the left.
    :param version: of the libxc stream; None for that of the libxc header that comes, or 3.
    """

    def __init__(
        self, sink: ByteSink, layers: tuple[str, ...], info: ImageInfo, version: int | None
    ) -> None:
        if info.guest_type not in f.GUEST_NUMBERS:
            raise UsageError(
                f"a Xen stream holds x86 PV or HVM guests, not {info.guest_type.value}"
            )
        if info.page_size != f.PAGE_BYTES:
            raise UsageError(f"a Xen stream has pages of 4096 bytes, not {info.page_size}")
        self._sink = sink
        self._layers = layers
        self._info = info
        self._version = version
        self._order: LibxcOrder | None = None
        self._given: dict[str, bytes] = {}
        self._libxl_turn = False  # libxc is at END or CHECKPOINT: libxl's records may come
        self._at_checkpoint = False  # so the stream may end here: a captured Remus stream
        self._libxl_ended = False
        self.left_out: list[str] = []
        self._page_name = f.PAGE_DATA_NAMES[info.guest_type]

    def put(self, event: Event) -> None:
        name = event.name
        if name in _HEADERS:
            self._keep_header(event)
            return
        order = self._order or self._write_headers()
        if self._libxl_ended:
            raise OutputError(f"{name} came after the end of the libxl stream")
        if isinstance(event, Record):
            self._put_record(event, order)
        elif name == self._page_name:
            self._see_libxc(name, event.offset, order)
            self._put_pages(event)
        else:
            raise OutputError(f"{name} does not belong into the stream of this kind of guest")

    def finish(self) -> None:
        order = self._order or self._write_headers()
        if self._at_checkpoint:  # a captured Remus stream: it ends where its connection broke
            if self._libxl_turn:
                self._empty(f.LIBXL_BY_NAME[f.CHECKPOINT_END])
            return
        if not order.ended:
            self._empty(f.LIBXC_BY_NAME[f.LIBXC_END])
        if "libxl" in self._layers and not self._libxl_ended:
            self._empty(f.LIBXL_BY_NAME[f.LIBXL_END])

    # -- headers ---------------------------------------------------------------------

    def _keep_header(self, event: Event) -> None:
        name = event.name
        if not isinstance(event, Record):
            raise OutputError(f"{name} is a header, and no pages")
        if self._order is not None or name in self._given:
            raise OutputError(f"{name} came too late or twice for a Xen stream")
        self._given[name] = bytes(event.body)

    def _write_headers(self) -> LibxcOrder:
        """All headers in the order of the nesting, given ones where there are any."""
        libxc = self._libxc_header()
        if "xl" in self._layers:
            self._sink.put((self._xl_header(),))
        elif self._given.get(f.XL_HEADER, _empty_xl_header()) != _empty_xl_header():
            self.left_out.append(f.XL_HEADER)  # the domain's configuration
        if "libxl" in self._layers:
            own = f.LIBXL_HEADER.pack(f.LIBXL_IDENT, f.LIBXL_VERSION, 0)
            given = self._given.get(f.LIBXL_STREAM_HEADER, own)
            _refuse(libxl_fault(given) if len(given) == len(own) else _size_fault(given, len(own)))
            self._sink.put((given,))
            self._empty(f.LIBXL_BY_NAME[f.LIBXC_CONTEXT])
        self._sink.put((libxc,))
        version = int.from_bytes(libxc[12:16], "big")
        self._order = LibxcOrder(version, self._info.guest_type)
        return self._order

    def _xl_header(self) -> bytes:
        given = self._given.get(f.XL_HEADER, _empty_xl_header())
        fixed = f.XlHeader.SIZE
        if len(given) < fixed:
            _refuse(_size_fault(given, fixed))
        _refuse(xl_fault(given))
        expected = fixed + f.XlHeader.decode_at(given, 0).optional_data_len
        if len(given) != expected:
            _refuse(_size_fault(given, expected))
        return given

    def _libxc_header(self) -> bytes:
        given = self._given.get(f.LIBXC_STREAM_HEADER)
        if given is not None:
            size = f.LIBXC_IMAGE_HEADER.size + f.LIBXC_DOMAIN_HEADER.size
            _refuse(libxc_fault(given) if len(given) == size else _size_fault(given, size))
            number = int.from_bytes(given[24:28], "little")
            if f.GUEST_TYPES[number] is not self._info.guest_type:
                raise OutputError(
                    f"{f.LIBXC_STREAM_HEADER} is that of an {f.GUEST_TYPES[number].value} guest, "
                    f"and the image that of an {self._info.guest_type.value} guest"
                )
            if self._version is None:
                return given
            return given[:12] + self._version.to_bytes(4, "big") + given[16:]
        major, _, minor = self._info.xen_version.partition(".")
        return f.LIBXC_IMAGE_HEADER.pack(
            f.LIBXC_MARKER, f.LIBXC_ID, self._version or 3, 0, 0, 0
        ) + f.LIBXC_DOMAIN_HEADER.pack(
            f.GUEST_NUMBERS[self._info.guest_type], f.PAGE_SHIFT, 0, _number(major), _number(minor)
        )

    # -- records ---------------------------------------------------------------------

    def _put_record(self, record: Record, order: LibxcOrder) -> None:
        name = record.name
        if (row := f.LIBXL_BY_NAME.get(name)) is not None:
            self._put_libxl(record, row, order)
            return
        row = f.LIBXC_BY_NAME.get(name)
        number = row.number if row is not None else f.unknown_number(name)
        # Asked for version 2, records of version 3 go; a source that had them keeps them.
        asked_older = self._version is not None and row is not None and row.since > self._version
        if number is None or record.type.version != 1 or asked_older:
            self._leave_out(record, can_be_rebuilt=asked_older)
            return
        if row is not None and self._info.guest_type not in row.guests:
            raise OutputError(f"{name} does not belong into the stream of this kind of guest")
        if name == f.STATIC_DATA_END and self._version == 2:
            order.see(name, record.offset)  # there it is inferred
            return
        self._see_libxc(name, record.offset, order)
        self._frame(number, record)
        if name in (f.LIBXC_END, f.CHECKPOINT):
            self._libxl_turn = "libxl" in self._layers
            self._at_checkpoint = name == f.CHECKPOINT

    def _see_libxc(self, name: str, offset: int, order: LibxcOrder) -> None:
        """A record of the libxc layer is about to be written."""
        if self._libxl_turn and not order.ended:
            # from a bare libxc stream, where the next round follows at once
            self._empty(f.LIBXL_BY_NAME[f.CHECKPOINT_END])
            self._libxl_turn = False
        self._infer_static_data_end(name, order)
        order.see(name, offset)
        self._at_checkpoint = False

    def _put_libxl(self, record: Record, row: f.Row, order: LibxcOrder) -> None:
        if "libxl" not in self._layers:
            if row.name not in f.LIBXL_TURNS:  # else framing of a layer that is not written
                self._leave_out(record, can_be_rebuilt=False)
            return
        if record.type.version != 1 or self._info.guest_type not in row.guests:
            raise OutputError(f"{row.name} does not belong into the stream of this kind of guest")
        closing = f.LIBXL_END if order.ended else f.CHECKPOINT_END
        if not self._libxl_turn or (row.name in f.LIBXL_TURNS and row.name != closing):
            raise OutputError(
                f"{row.name} came where the libxc stream inside has reached neither END "
                "nor a checkpoint that it could follow"
            )
        self._frame(row.number, record)
        self._libxl_turn = row.name not in f.LIBXL_TURNS
        self._libxl_ended = row.name == f.LIBXL_END

    def _leave_out(self, record: Record, *, can_be_rebuilt: bool) -> None:
        """Optional records, and those an older version did without, are left out and told
        of; to lose anything else silently would make the image wrong."""
        if record.type.mandatory and not can_be_rebuilt:
            kept = "libxl or xl" if record.name in f.LIBXL_BY_NAME else "native"
            raise OutputError(
                f"{record.name} is mandatory, and this format has no place for it; "
                f"convert to {kept} instead"
            )
        self.left_out.append(record.name)

    def _infer_static_data_end(self, name: str, order: LibxcOrder) -> None:
        """Records read from a version 2 stream need the mark when version 3 is written."""
        if order.version >= 3 and not order.static_data_ended and order.needs_end_before(name):
            order.see(f.STATIC_DATA_END, self._sink.offset)
            self._empty(f.LIBXC_BY_NAME[f.STATIC_DATA_END])

    def _empty(self, row: f.Row) -> None:
        self._sink.put((f.RECORD_HEADER.pack(row.number, 0),))

    def _frame(self, number: int, record: Record) -> None:
        size = len(record.body)
        if size > f.BODY_MAX:
            raise OutputError(f"{record.name} has {size} bytes; Xen accepts {f.BODY_MAX}")
        padding = record.padding or bytes(-size & 7)
        if len(padding) != -size & 7:
            raise OutputError(
                f"{record.name}: {len(padding)} bytes of padding after a body of {size}"
            )
        self._sink.put((f.RECORD_HEADER.pack(number, size), record.body, padding))

    def _put_pages(self, batch: PageBatch) -> None:
        entries = batch.entries.astype("<u8", copy=False)
        size = 8 + entries.nbytes + f.PAGE_BYTES * batch.nr_pages
        if batch.pages is None or size > f.BODY_MAX:
            raise OutputError(f"{batch.name}: a batch without its pages, or above {f.BODY_MAX}")
        if not len(entries):
            raise OutputError(f"{batch.name}: a batch without pfns, which Xen refuses")
        head = f.RECORD_HEADER.pack(f.PAGE_DATA, size) + f.PAGE_DATA_HEADER.pack(
            len(entries), batch.reserved
        )
        self._sink.put((head, entries.data.cast("B"), batch.pages.reshape(-1).data))


def _size_fault(header: bytes, expected: int) -> Fault:
    return Fault("size of a header", 0, f"{expected} bytes", f"{len(header)}")


def _refuse(fault: Fault | None) -> None:
    if fault is not None:
        raise OutputError(f"{fault.what}: expected {fault.expected}, got {fault.got}")


def _empty_xl_header() -> bytes:
    """Of a guest whose configuration is not in the records: xl then wants it given again."""
    optional = (0).to_bytes(4, "little")
    return (
        f.XlHeader(f.XL_MAGIC, f.XL_BYTEORDER, f.XL_FLAG_V2, 0, len(optional)).encode() + optional
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
