"""The legacy stream of libxc, as the records of its successor.

What Xen 3.0 to 4.5 wrote: the p2m's size, for PV guests extended info and the pages of the
p2m, then chunks, then a tail of state, then the device model's state; for Remus chunks and
tail again and again. docs/formats/legacy.md has the layouts, and says what becomes of what.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from attrs import field

from xsave import (
    ByteSource,
    FormatError,
    GuestType,
    ImageInfo,
    ReadOptions,
    Record,
    RecordType,
    Remark,
    StreamError,
    TruncatedError,
    define,
)

from . import layouts as f
from .batches import Batches
from .containers import Container
from .extended_info import ExtendedInfo, read_extended_info, without_extended_info
from .kind import Kind, kind_of
from .tails import device_model, hvm_params, hvm_tail, vcpu_tail, xenstore_record
from .tmem import TmemChunks
from .toolstack import xenstore_data
from .words import Words, expect

if TYPE_CHECKING:
    from xsave import Event

_NO_MAGIC = "; a legacy stream has no magic, so this may be something else"


@define
class _Round:
    """What the chunks of one round said, for its tail.

    :ivar is_last: LAST_CHECKPOINT came.
    """

    params: list[tuple[int, int]] = field(factory=list)
    xenstore: bytes = b""
    xenstore_offset: int = 0
    is_last: bool = False


class LegacyReader:
    """:param container: what stands before the stream; its headers were read.

    :ivar remarks: what the releases that wrote it did wrong, complete at the end.
    """

    def __init__(self, source: ByteSource, options: ReadOptions, container: Container) -> None:
        self._source = source
        self._container = container
        self._offset = source.offset
        self._kind = self._find_kind()
        self._words = Words(source, self._kind.word_size)
        self._batches = Batches(self._words, self._kind, options.pages)
        self._tmem = TmemChunks(self._words)
        self._vcpus: list[int] = [0]
        self._extended: ExtendedInfo | None = None
        self._nr_pages_seen = 0
        self._is_compressed_next = False
        self.info = ImageInfo(
            format=container.format,
            guest_type=self._kind.guest_type,
            page_size=f.PAGE_BYTES,
            word_size=self._kind.word_size,
            details={
                **container.details,
                "p2m_size": self._kind.p2m_size,
                "converted_from_legacy": f"converter version {f.CONVERTER_MINOR}",
            },
        )

    @property
    def remarks(self) -> list[Remark]:
        return self._tmem.remarks()

    def __iter__(self) -> Iterator[Event]:
        yield from self._container.records
        yield from self._headers()
        try:
            for event in self._body():
                is_pages = not isinstance(event, Record)
                yield event
                del event  # its memory is used again
                self._nr_pages_seen += is_pages
        except (FormatError, TruncatedError) as error:
            if self._nr_pages_seen or self._container.has_magic:
                raise
            raise StreamError(f"{error}{_NO_MAGIC}") from error
        yield from self._container.finish(self._source)
        if not self._source.at_end():
            raise FormatError(
                what="end of the image", offset=self._source.offset,
                expected="nothing after the last tail", got="further bytes",
            )  # fmt: skip

    # -- what comes first ------------------------------------------------------------

    def _find_kind(self) -> Kind:
        kind = kind_of(self._source.peek(f.PAGE_BYTES))
        if kind is None:
            raise FormatError(
                what="legacy stream", offset=self._offset,
                expected="the size of a p2m, then extended info or a chunk",
                got=self._source.peek(16).hex(" ") or "nothing",
            )  # fmt: skip
        hint = self._container.guest_type
        expect("kind of guest", self._offset, hint in (None, kind.guest_type),
               f"{hint.value if hint else ''}, as the configuration says",
               f"a stream of an {kind.guest_type.value} guest")  # fmt: skip
        return kind

    def _headers(self) -> Iterator[Record]:
        """Those of the successor's streams, marked as Xen's converter marks them."""
        libxl = f.LIBXL_HEADER.pack(b"LibxlFmt", 2, f.LIBXL_CONVERTED)
        yield self._record("xen.libxl.header", libxl, self._offset)
        image = f.LIBXC_HEADER.pack(b"\xff" * 8, b"XENF", 3, 0, 0, 0)
        number = f.GUEST_NUMBERS[self._kind.guest_type]
        domain = f.DOMAIN_HEADER.pack(number, 12, 0, 0, f.CONVERTER_MINOR)
        yield self._record("xen.libxc.header", image + domain, self._offset)

    def _body(self) -> Iterator[Event]:
        self._words.word("p2m size")
        if self._kind.guest_type is GuestType.X86_PV:
            yield from self._pv_head()
        else:
            yield self._record("xen.libxc.static_data_end", b"", self._source.offset)
        while True:
            this = _Round()
            yield from self._chunks(this)
            if (yield from self._end_round(this)):
                return

    def _pv_head(self) -> Iterator[Record]:
        offset = self._source.offset
        if self._kind.extended_info:
            self._words.word("mark of the extended info")
            self._extended = read_extended_info(self._words)
        else:
            self._extended = without_extended_info(self._words, offset)
        width = self._extended.guest_width
        info = struct.pack("<BB6x", width, self._extended.pt_levels)
        yield self._record("xen.pv.info", info, offset)
        offset = self._source.offset
        yield self._record("xen.libxc.static_data_end", b"", offset)
        nr_frames = -(-self._kind.p2m_size * width // f.PAGE_BYTES)
        frames = self._words.words(nr_frames, "list of the p2m's pages")
        pfns = struct.pack("<II", 0, self._kind.p2m_size - 1)
        yield self._record("xen.pv.p2m_frames", pfns + frames.astype("<u8").tobytes(), offset)

    # -- chunks ----------------------------------------------------------------------

    def _chunks(self, this: _Round) -> Iterator[Event]:
        """Up to the one that ends the round."""
        while True:
            offset = self._source.offset
            number = self._words.number(f.INT, "number of a chunk")
            if number == f.END:
                self._batches.end_round(offset)
                if this.params:
                    yield hvm_params(this.params, offset)
                return
            if number > 0:
                expect("page batch", offset, number <= f.BATCH_MAX,
                       f"at most {f.BATCH_MAX} entries", number)  # fmt: skip
                yield from self._batches.read(number, offset)
            elif number == f.COMPRESSED_DATA:
                yield from self._batches.decompress(offset)
            elif number == f.TMEM:
                yield from self._tmem.read(offset)
            elif number == f.TMEM_EXTRA:
                yield from self._tmem.read_extra(offset)
            elif number == f.TSC_INFO:
                yield self._tsc_info(offset)
            elif number == f.VERIFY:
                yield self._record("xen.libxc.verify", b"", offset)
            else:
                self._small_chunk(number, offset, this)

    def _small_chunk(self, number: int, offset: int, this: _Round) -> None:
        """One that becomes no record by itself."""
        expect("chunk", offset, number in f.CHUNK_NAMES,
               f"{f.LOWEST_CHUNK} to {f.BATCH_MAX}", number)  # fmt: skip
        if number in f.HVM_PARAMS:
            self._expect_hvm(number, offset)
            what = f.CHUNK_NAMES[number]
            _, value = f.PADDED_U64.unpack(self._source.take(f.PADDED_U64.size, what))
            this.params.append((f.HVM_PARAMS[number], value))
        elif number == f.VCPU_INFO:
            self._vcpus = self._online_vcpus(offset)
        elif number == f.LAST_CHECKPOINT:
            this.is_last = True
        elif number == f.ENABLE_COMPRESSION:
            self._is_compressed_next = True
        else:
            self._toolstack(offset, this)

    def _expect_hvm(self, number: int, offset: int) -> None:
        expect(f.CHUNK_NAMES[number], offset, self._kind.guest_type is GuestType.X86_HVM,
               "an HVM guest", "a PV guest")  # fmt: skip

    def _online_vcpus(self, offset: int) -> list[int]:
        highest = self._words.number(f.INT, "highest vcpu")
        expect("highest vcpu", offset + 4, 0 <= highest <= f.VCPU_ID_MAX,
               f"0 to {f.VCPU_ID_MAX}", highest)  # fmt: skip
        bitmap = self._source.take(8 * (highest // 64 + 1), "online vcpus")
        online = int.from_bytes(bitmap, "little")
        expect("online vcpus", offset + 8, online >> (highest + 1) == 0,
               f"no vcpu above {highest}", f"{online:#x}")  # fmt: skip
        return [vcpu for vcpu in range(highest + 1) if online >> vcpu & 1]

    def _tsc_info(self, offset: int) -> Record:
        mode, nsec, khz, incarnation = f.TSC.unpack(self._source.take(f.TSC.size, "TSC_INFO"))
        body = struct.pack("<IIQII", mode, khz, nsec, incarnation, 0)
        return self._record("xen.x86.tsc_info", body, offset)

    def _toolstack(self, offset: int, this: _Round) -> None:
        size = self._words.size("size of TOOLSTACK", f.BODY_MAX)
        if not size:
            return
        body = bytes(self._source.take(size, "TOOLSTACK"))
        this.xenstore = xenstore_data(body, self._kind.word_size, offset)
        this.xenstore_offset = offset
        if this.xenstore:
            self._expect_hvm(f.TOOLSTACK, offset)

    # -- tails -----------------------------------------------------------------------

    def _end_round(self, this: _Round) -> Generator[Event, None, bool]:
        """Tail, mark, device model. Returns whether that was the last round: said so, or
        the image ends."""
        model: list[Record] = []
        if self._extended is not None:
            yield from self._unmapped()
            yield from self._vcpu_records(self._extended)
        else:
            yield from hvm_tail(self._words)
            if this.xenstore:
                model.append(xenstore_record(this.xenstore, this.xenstore_offset))
            state = device_model(self._words, xapi=self._container.xapi)
            model += [] if state is None else [state]
        offset = self._source.offset
        is_last = this.is_last or self._container.is_over(self._source)
        mark = "xen.libxc.end" if is_last else "xen.libxc.checkpoint"
        yield self._record(mark, b"", offset)
        yield from model
        if not is_last:
            yield self._record("xen.libxl.checkpoint_end", b"", offset)
        self._batches.compressed = self._is_compressed_next
        return is_last

    def _unmapped(self) -> Iterator[Event]:
        offset = self._source.offset
        count = self._words.number(f.UINT, "number of unmapped pfns")
        expect("number of unmapped pfns", offset, count <= self._kind.p2m_size,
               f"at most the p2m's size, {self._kind.p2m_size}", count)  # fmt: skip
        while count:
            nr_read = min(count, f.BATCH_MAX)
            offset = self._source.offset
            pfns = self._words.words(nr_read, "unmapped pfns")
            expect("unmapped pfns", offset, bool((pfns < self._kind.p2m_size).all()),
                   f"below {self._kind.p2m_size:#x}", f"{int(pfns.max()):#x}")  # fmt: skip
            yield from self._batches.forget(pfns, offset)
            count -= nr_read

    def _vcpu_records(self, extended: ExtendedInfo) -> Iterator[Record]:
        return vcpu_tail(
            self._words, self._vcpus, extended.context_bytes,
            extended=extended.extended, xsave=extended.xsave,
        )  # fmt: skip

    @staticmethod
    def _record(name: str, body: bytes, offset: int) -> Record:
        return Record(RecordType(name), body, offset)
