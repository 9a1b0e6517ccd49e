"""xapi's suspend image: a chain of typed parts around a libxc stream (XenServer, XCP-ng).

Each part has a header of type and length. The one before the libxc stream says length 0: where
the stream ends, only its own END tells. There is no libxl layer.

Source: xen-api's suspend image code, as docs/formats/containers.md has it; no real image was
at hand.
"""

from __future__ import annotations

from collections.abc import Iterator

from xsave import ByteSource, FormatError, GuestType, OutputError, Record, RecordType

from . import framing as f

NO_EMULATOR = bytes(8)  # id 0 (unknown), index 0: xapi's parts do not say whose they are
_METADATA = RecordType(f.XAPI_METADATA, mandatory=False)
_LIBXC = RecordType(f.XAPI_LIBXC_HEADER, mandatory=False)
_NOT_READ = {
    0xF1: "Libxl, reserved and never written",
    0x0F01: "Qemu_xen, reserved and never written",
    f.XAPI_VGPU: "Demu, the state of a virtual GPU, whose length only its own program knows",
}


def read_xapi_headers(source: ByteSource, details: dict[str, object]) -> list[Record]:
    """The signature, and the parts up to where the libxc stream begins."""
    offset = source.offset
    magic = bytes(source.take(len(f.XAPI_MAGIC), "xapi signature"))
    if magic != f.XAPI_MAGIC:
        raise FormatError(
            what="xapi signature", offset=offset, expected=repr(f.XAPI_MAGIC), got=repr(magic)
        )
    records: list[Record] = []
    while True:
        offset = source.offset
        head = source.take(f.XAPI_HEADER.size, "header of an xapi part")
        number, length = f.XAPI_HEADER.unpack(head)
        if number in (f.XAPI_LIBXC, f.XAPI_LIBXC_LEGACY):
            _expect_length(offset, length, 0)
            return [*records, Record(_LIBXC, head, offset)]
        if number != f.XAPI_XENOPS or records:
            raise _unexpected(offset, number, "Xenops once, then Libxc")
        _expect_length(offset, length, f.CONFIG_MAX)
        records.append(Record(_METADATA, source.take(length, "Xenops"), offset))
        details["xapi_metadata_bytes"] = length


def read_xapi_parts(source: ByteSource, guest_type: GuestType) -> Iterator[Record]:
    """What follows the libxc stream, up to the end of the image."""
    seen: set[int] = set()
    while True:
        offset = source.offset
        number, length = f.XAPI_HEADER.unpack(
            source.take(f.XAPI_HEADER.size, "header of an xapi part")
        )
        if number == f.XAPI_END:
            _expect_length(offset, length, 0)
            return
        row = f.XAPI_BY_NUMBER.get(number)
        if number in seen or (row is None and number != f.XAPI_QEMU):
            raise _unexpected(offset, number, "Qemu_trad, Varstored or Swtpm, each once")
        seen.add(number)
        _expect_length(offset, length, f.BODY_MAX - len(NO_EMULATOR))
        if row is not None:
            yield Record(f.TYPES[row.name], source.take(length, row.spec_name), offset)
            continue
        if guest_type is not GuestType.X86_HVM:
            raise _unexpected(offset, number, "no device model's state with a PV guest")
        blob = bytes(source.take(length, "Qemu_trad"))
        yield Record(f.TYPES[f.QEMU_CONTEXT], NO_EMULATOR + blob, offset)


def xapi_start(metadata: bytes, libxc: bytes) -> bytes:
    """All that stands before the libxc stream.

    :param libxc: the header before it, as it was read.
    :raises OutputError: it is none.
    """
    own = f.XAPI_HEADER.pack(f.XAPI_LIBXC, 0)
    if libxc not in (own, f.XAPI_HEADER.pack(f.XAPI_LIBXC_LEGACY, 0)):
        raise OutputError(f"{f.XAPI_LIBXC_HEADER}: expected the header of a libxc stream")
    if len(metadata) > f.CONFIG_MAX:
        raise OutputError(f"{f.XAPI_METADATA} has {len(metadata)} bytes, above {f.CONFIG_MAX}")
    return f.XAPI_MAGIC + f.XAPI_HEADER.pack(f.XAPI_XENOPS, len(metadata)) + metadata + libxc


def minimal_metadata(created: str, word_size: int) -> bytes:
    """Of a guest whose configuration is not in the records.

    :param created: a time without blanks; "" for none.
    :param word_size: of the toolstack, bytes; 0 if not known.
    """
    bits = 8 * (word_size or 8)
    return f"((time {created or 0})(word_size {bits})(xs_subtree ()))".encode()


def _expect_length(offset: int, length: int, limit: int) -> None:
    if length > limit:
        raise FormatError(
            what="length of an xapi part", offset=offset + 8,
            expected=f"at most {limit} bytes" if limit else "0", got=str(length),
        )  # fmt: skip


def _unexpected(offset: int, number: int, expected: str) -> FormatError:
    got = f"{number:#x}" + (f" ({_NOT_READ[number]})" if number in _NOT_READ else "")
    return FormatError(what="type of an xapi part", offset=offset, expected=expected, got=got)
