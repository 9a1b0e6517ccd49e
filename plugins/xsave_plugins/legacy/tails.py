"""What follows the last chunk of a round: state of vcpus and devices, as libxc's records."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from xsave import ByteSource, FormatError, Record, RecordType

from . import layouts as f
from .words import Words, expect

_PARAMS = RecordType("xen.hvm.params")
_CONTEXT = RecordType("xen.hvm.context")
_BASIC = RecordType("xen.pv.vcpu_basic")
_EXTENDED = RecordType("xen.pv.vcpu_extended")
_XSAVE = RecordType("xen.pv.vcpu_xsave")
_SHARED_INFO = RecordType("xen.pv.shared_info")
_QEMU = RecordType("xen.qemu.context")
_XENSTORE = RecordType("xen.qemu.xenstore_data")
_VCPU = struct.Struct("<II")  # vcpu_id, reserved
_UNKNOWN_EMULATOR = bytes(8)  # id 0 and index 0, as the converter of Xen has it


def hvm_params(pairs: Sequence[tuple[int, int]], offset: int) -> Record:
    head = struct.pack("<II", len(pairs), 0)
    return Record(_PARAMS, head + b"".join(struct.pack("<QQ", *pair) for pair in pairs), offset)


def hvm_tail(words: Words) -> Iterator[Record]:
    """Three pages shared with the device model and xenstore, and Xen's own context."""
    source = words.source
    offset = source.offset
    ioreq, buffered, store = f.MAGIC_PFNS.unpack(source.take(f.MAGIC_PFNS.size, "magic pfns"))
    shared = ((f.IOREQ_PFN, ioreq), (f.BUFIOREQ_PFN, buffered), (f.STORE_PFN, store))
    yield hvm_params(shared, offset)
    offset = source.offset
    size = words.size("size of the HVM context", f.BODY_MAX)
    yield Record(_CONTEXT, source.take(size, "HVM context"), offset)


def vcpu_tail(
    words: Words, vcpus: Sequence[int], context_bytes: int, *, extended: bool, xsave: bool
) -> Iterator[Record]:
    """The contexts of a PV guest's online vcpus, and its shared info.

    Sizes of XSAVE areas are those that stand before each: another vcpu may have enabled
    more than vcpu 0, whose size alone was announced.
    """
    source = words.source
    for vcpu in vcpus:
        head = _VCPU.pack(vcpu, 0)
        offset = source.offset
        basic = source.take(context_bytes, f"context of vcpu {vcpu}")
        yield Record(_BASIC, head + bytes(basic), offset)
        if extended:
            offset = source.offset
            more = source.take(f.EXTENDED_CONTEXT_BYTES, f"extended context of vcpu {vcpu}")
            yield Record(_EXTENDED, head + bytes(more), offset)
        if xsave:
            offset = source.offset
            what = f"XSAVE state of vcpu {vcpu}"
            _mask, size = f.XSAVE_HEAD.unpack(source.take(f.XSAVE_HEAD.size, what))
            expect(f"size of the {what}", offset + 8, size <= f.BODY_MAX,
                   f"at most {f.BODY_MAX} bytes", size)  # fmt: skip
            yield Record(_XSAVE, head + bytes(source.take(size, what)), offset)
    offset = source.offset
    yield Record(_SHARED_INFO, source.take(f.SHARED_INFO_BYTES, "shared info"), offset)


def xenstore_record(pairs: bytes, offset: int) -> Record:
    return Record(_XENSTORE, _UNKNOWN_EMULATOR + pairs, offset)


def device_model(words: Words, *, xapi: bool) -> Record | None:
    """The device model's state behind an HVM guest's tail; None if something else follows.

    :param xapi: framed as XenServer did: a newline behind the signature, and a length, which is
        big-endian.
    """
    source = words.source
    signature = source.peek(f.SIGNATURE_BYTES)
    offset = source.offset
    if signature not in {f.QEMU_TO_THE_END, *f.QEMU_WITH_LENGTH}:
        return None
    source.take(f.SIGNATURE_BYTES, "signature of the device model's state")
    if signature != f.QEMU_TO_THE_END:
        size = words.size("size of the device model's state", f.BODY_MAX)
        blob = bytes(source.take(size, "device model's state"))
    elif xapi:
        blob = _xapi_state(source)
    else:
        blob = _to_the_end(source, offset)
    return Record(_QEMU, _UNKNOWN_EMULATOR + blob, offset)


def _xapi_state(source: ByteSource) -> bytes:
    offset = source.offset
    head = source.take(5, "size of the device model's state")
    expect("signature of the device model's state", offset, head[0] == 0x0A,
           "a newline behind it", f"{head[0]:#04x}")  # fmt: skip
    size = int.from_bytes(head[1:], "big")
    expect("size of the device model's state", offset + 1, size <= f.BODY_MAX,
           f"at most {f.BODY_MAX} bytes", size)  # fmt: skip
    return bytes(source.take(size, "device model's state"))


def _to_the_end(source: ByteSource, offset: int) -> bytes:
    """xend said no length: its file ends with it."""
    blob = bytearray()
    while piece := source.peek(f.PAGE_BYTES):
        if len(blob) + len(piece) > f.BODY_MAX:
            raise FormatError(
                what="device model's state", offset=offset,
                expected=f"at most {f.BODY_MAX} bytes to the end of the image", got="more",
            )  # fmt: skip
        blob += source.take(len(piece), "device model's state")
    expect("device model's state", offset, blob.startswith(f.QEVM), "QEVM", bytes(blob[:4]))
    return bytes(blob)
