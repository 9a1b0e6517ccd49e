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
from .order import LibxcOrder

if TYPE_CHECKING:
    from xsave import Event, PageBatch

_HEADERS = (f.XL_HEADER, f.LIBXL_STREAM_HEADER, f.LIBXC_CONTEXT, f.LIBXC_STREAM_HEADER)
_ENDS = (f.LIBXC_END, f.LIBXL_END)


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
        self._given: dict[str, Record] = {}
        self._ended: set[str] = set()
        self._last = ""
        self.left_out: list[str] = []
        self._page_name = f.PAGE_DATA_NAMES[info.guest_type]

    def put(self, event: Event) -> None:
        name = event.name
        if name in _HEADERS:
            if self._order is not None or name in self._given:
                raise OutputError(f"{name} came too late or twice for a Xen stream")
            assert isinstance(event, Record)
            self._given[name] = event
            return
        order = self._order or self._write_headers()
        if isinstance(event, Record):
            self._put_record(event, order)
        elif name == self._page_name:
            self._infer_static_data_end(name, order)
            order.see(name, event.offset)
            self._put_pages(event)
        else:
            raise OutputError(f"{name} does not belong into the stream of this kind of guest")

    def finish(self) -> None:
        if self._order is None:
            self._write_headers()
        if self._last in (f.CHECKPOINT, f.CHECKPOINT_END):
            return  # a captured Remus stream: it ends where its connection broke
        for name, layer in zip(_ENDS, ("libxc", "libxl"), strict=True):
            if layer in self._layers and name not in self._ended:
                row = f.LIBXC_BY_NAME[name] if layer == "libxc" else f.LIBXL_BY_NAME[name]
                self._sink.put((f.RECORD_HEADER.pack(row.number, 0),))

    # -- headers ---------------------------------------------------------------------

    def _write_headers(self) -> LibxcOrder:
        """All headers in the order of the nesting, given ones where there are any."""
        libxc = self._libxc_header()
        if "xl" in self._layers:
            self._sink.put((self._body(f.XL_HEADER, _empty_xl_header()),))
        if "libxl" in self._layers:
            own = f.LIBXL_HEADER.pack(f.LIBXL_IDENT, f.LIBXL_VERSION, 0)
            self._sink.put((self._body(f.LIBXL_STREAM_HEADER, own),))
            number = f.LIBXL_BY_NAME[f.LIBXC_CONTEXT].number
            self._sink.put((f.RECORD_HEADER.pack(number, 0),))
        self._sink.put((libxc,))
        version = int.from_bytes(libxc[12:16], "big")
        self._order = LibxcOrder(version, self._info.guest_type)
        return self._order

    def _body(self, name: str, otherwise: bytes) -> bytes:
        given = self._given.get(name)
        return otherwise if given is None else bytes(given.body)

    def _libxc_header(self) -> bytes:
        given = self._given.get(f.LIBXC_STREAM_HEADER)
        if given is not None:
            head = bytearray(given.body)
            if self._version is not None:
                head[12:16] = self._version.to_bytes(4, "big")
            return bytes(head)
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
            self._put_libxl(record, row)
            return
        row = f.LIBXC_BY_NAME.get(name)
        number = row.number if row is not None else f.unknown_number(name)
        if number is None or (row is not None and row.since > order.version):
            self._leave_out(record, can_be_rebuilt=row is not None)
            return
        if row is not None and self._info.guest_type not in row.guests:
            raise OutputError(f"{name} does not belong into the stream of this kind of guest")
        if name == f.STATIC_DATA_END and order.version < 3 and self._version is not None:
            order.see(name, record.offset)  # version 2, asked for: there it is inferred
            return
        self._infer_static_data_end(name, order)
        order.see(name, record.offset)
        self._frame(number, record)
        self._ended.add(name)

    def _put_libxl(self, record: Record, row: f.Row) -> None:
        if "libxl" not in self._layers:
            if row.name in f.LIBXL_TURNS:
                return  # framing of a layer that is not written
            self._leave_out(record, can_be_rebuilt=False)
            return
        if row.name == f.LIBXL_END and f.LIBXC_END not in self._ended:
            raise OutputError("the libxl stream ends before the libxc stream inside it")
        self._frame(row.number, record)
        self._ended.add(row.name)

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
            self._sink.put((f.RECORD_HEADER.pack(f.LIBXC_BY_NAME[f.STATIC_DATA_END].number, 0),))

    def _frame(self, number: int, record: Record) -> None:
        self._last = record.name
        size = len(record.body)
        if size > f.BODY_MAX:
            raise OutputError(f"{record.name} has {size} bytes; Xen accepts {f.BODY_MAX}")
        padding = record.padding or bytes(-size & 7)
        self._sink.put((f.RECORD_HEADER.pack(number, size), record.body, padding))

    def _put_pages(self, batch: PageBatch) -> None:
        entries = batch.entries.astype("<u8", copy=False)
        size = 8 + entries.nbytes + f.PAGE_BYTES * batch.nr_pages
        if batch.pages is None or size > f.BODY_MAX:
            raise OutputError(f"{batch.name}: a batch without its pages, or above {f.BODY_MAX}")
        self._last = batch.name
        head = f.RECORD_HEADER.pack(f.PAGE_DATA, size) + f.PAGE_DATA_HEADER.pack(
            len(entries), batch.reserved
        )
        self._sink.put((head, entries.data.cast("B"), batch.pages.reshape(-1).data))


def _empty_xl_header() -> bytes:
    """Of a guest whose configuration is not in the records: xl then wants it given again."""
    optional = (0).to_bytes(4, "little")
    return (
        f.XlHeader(f.XL_MAGIC, f.XL_BYTEORDER, f.XL_FLAG_V2, 0, len(optional)).encode() + optional
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
