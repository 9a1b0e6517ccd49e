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
    LossError,
    OutputError,
    Record,
    UsageError,
)

from . import framing as f
from .headers import Fault, libvirt_fault, libxc_fault, libxl_fault, xl_fault
from .order import LibxcOrder
from .xapi import NO_EMULATOR, minimal_metadata, xapi_start

if TYPE_CHECKING:
    from xsave import Event, PageBatch

_HEADERS = (
    f.XL_HEADER, f.LIBVIRT_HEADER, f.XAPI_METADATA, f.XAPI_LIBXC_HEADER, f.LIBXL_STREAM_HEADER,
    f.LIBXC_CONTEXT, f.LIBXC_STREAM_HEADER,
)  # fmt: skip
# Whose headers are left out, and told of, where the container is not written.
_OF_CONTAINERS = {
    f.LIBVIRT_HEADER: "libvirt", f.XAPI_METADATA: "xapi", f.XAPI_LIBXC_HEADER: "xapi",
}  # fmt: skip


class XenWriter:
    """:param layers: of headers to write: ("xl", "libxl", "libxc"), or fewer from the left;
        "libvirt" or "xapi" may stand in place of "xl".
    :param version: of the libxc stream; None for that of the libxc header that comes, or 3.
    :param created: when, for xapi's metadata.
    """

    def __init__(
        self, sink: ByteSink, layers: tuple[str, ...], info: ImageInfo, version: int | None,
        created: str = "",
    ) -> None:  # fmt: skip
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
        self._created = created
        self._order: LibxcOrder | None = None
        self._given: dict[str, bytes] = {}
        self._libxl_turn = False  # libxc is at END or CHECKPOINT: libxl's records may come
        self._at_checkpoint = False  # so the stream may end here: a captured Remus stream
        self._libxl_ended = False
        self._xapi_parts: set[int] = set()
        self.left_out: list[str] = []
        self._page_name = f.PAGE_DATA_NAMES[info.guest_type]

    def put(self, event: Event) -> None:
        name = event.name
        if name in _HEADERS:
            self._keep_header(event)
            return
        if isinstance(event, Record) and self._is_foreign(event):
            self._leave_out(event, can_be_rebuilt=False)
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
        if "xapi" in self._layers:
            self._finish_xapi(order)
            return
        if self._at_checkpoint:  # a captured Remus stream: it ends where its connection broke
            if self._libxl_turn:
                self._empty(f.LIBXL_BY_NAME[f.CHECKPOINT_END])
            return
        if not order.ended:
            self._empty(f.LIBXC_BY_NAME[f.LIBXC_END])
        if "libxl" in self._layers and not self._libxl_ended:
            self._empty(f.LIBXL_BY_NAME[f.LIBXL_END])

    def _finish_xapi(self, order: LibxcOrder) -> None:
        if self._at_checkpoint:
            raise OutputError(
                "the stream ends at a checkpoint, where its connection broke; an xapi image "
                "needs one that ends: convert to libxl, xl or libxc instead"
            )
        if not order.ended:
            self._empty(f.LIBXC_BY_NAME[f.LIBXC_END])
        self._sink.put((f.XAPI_HEADER.pack(f.XAPI_END, 0),))

    def _is_foreign(self, record: Record) -> bool:
        """Whether it belongs to none of the layers written: also before any header."""
        name = record.name
        if name in f.LIBXC_BY_NAME or f.unknown_number(name) is not None:
            return False
        if name in f.LIBXL_BY_NAME:
            return False
        return name not in f.XAPI_BY_NAME or "xapi" not in self._layers

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
        self._write_container()
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

    def _write_container(self) -> None:
        """That of libvirt or xapi, if it is one of these; what is another's is left out."""
        for name, container in _OF_CONTAINERS.items():
            if name in self._given and container not in self._layers:
                self.left_out.append(name)
        if "libvirt" in self._layers:
            self._sink.put((self._libvirt_header(),))
        if "xapi" in self._layers:
            metadata = self._given.get(f.XAPI_METADATA)
            if metadata is None:
                metadata = minimal_metadata(self._created, self._info.word_size)
            libxc = self._given.get(f.XAPI_LIBXC_HEADER, f.XAPI_HEADER.pack(f.XAPI_LIBXC, 0))
            self._sink.put((xapi_start(metadata, libxc),))

    def _libvirt_header(self) -> bytes:
        given = self._given.get(f.LIBVIRT_HEADER)
        if given is None:
            raise UsageError(
                "a libvirt file begins with the domain's XML, which is not in this image; "
                "convert to xl or libxl instead"
            )
        fixed = f.LibvirtHeader.SIZE
        if len(given) < fixed:
            _refuse(_size_fault(given, fixed))
        _refuse(libvirt_fault(given))
        expected = fixed + f.LibvirtHeader.decode_at(given, 0).xml_len
        if len(given) != expected:
            _refuse(_size_fault(given, expected))
        return given

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
        if "xapi" in self._layers and (name in f.XAPI_BY_NAME or name == f.QEMU_CONTEXT):
            self._put_xapi(record, order)
            return
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

    def _put_xapi(self, record: Record, order: LibxcOrder) -> None:
        """A part behind the libxc stream; the device model's goes without its emulator
        header, for which there is no place and which no reader looks at."""
        row = f.XAPI_BY_NAME.get(record.name)
        hvm_only = row is None and self._info.guest_type not in f.HVM
        if not order.ended or hvm_only:
            raise OutputError(f"{record.name} does not belong there in an xapi image")
        number = f.XAPI_QEMU if row is None else row.number
        body = record.body if row is not None else memoryview(record.body)[len(NO_EMULATOR) :]
        if record.type.version != 1 or len(body) > f.BODY_MAX - len(NO_EMULATOR):
            raise OutputError(f"{record.name}: {len(body)} bytes are too many for an xapi image")
        if number in self._xapi_parts:
            raise OutputError(f"{record.name} comes twice, and an xapi image has one")
        self._xapi_parts.add(number)
        self._sink.put((f.XAPI_HEADER.pack(number, len(body)), body))

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
            kept = "xapi or native" if record.name in f.XAPI_BY_NAME else kept
            raise LossError(losses={record.name: 1}, kept_by=kept)
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
