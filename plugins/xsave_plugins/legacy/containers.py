"""What stands before a legacy stream: the files of xl, xend, xapi and libvirt.

Each function reads one kind of header, and says what it told of the guest. A configuration is
data: it is kept as it was, looked at for the kind of guest, and never run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from attrs import field

from xsave import ByteSource, FieldError, FormatError, GuestType, Record, RecordType, frozen

from .sexpr import Expression, member, parse
from .words import expect

CONFIG_MAX = 16 << 20  # bytes

XL_MAGIC = b"Xen saved domain, xl format\n \0 \r"
XL_HEADER_BYTES, XL_BYTEORDER = 48, 0x01020304
XL_JSON, XL_V2 = 1 << 0, 1 << 1
BANNER = b"xl migration receiver ready, send binary domain data.\n"
# What each side says after the stream; only its first word tells them apart.
HANDSHAKE = (
    b"domain received, ready to unpause\0",
    b"domain is yours, you are cleared to unpause\0",
    b"my copy unpause results are as follows\0",
)
LIBVIRT_MAGIC, LIBVIRT_HEADER_BYTES = b"libvirt-xml\n \0 \r", 64
XEND_MAGIC = b"LinuxGuestRecord"
XEND_RELOCATION = (b"receive\n", b"sslreceive\n")
XAPI_MAGIC = b"XenSavedDomain\n"

XL_HEADER = "xen.xl.header"
XL_HANDSHAKE = RecordType("xen.xl.handshake", mandatory=False)
LIBVIRT_HEADER = "xen.libvirt.header"
XEND_CONFIG = RecordType("xen.xend.config", mandatory=False)

_XL_TEXT_HVM = re.compile(rb"^\s*builder\s*=\s*['\"]hvm", re.MULTILINE)
_XML_TYPE = re.compile(rb"<type[^<>]{0,200}>\s*([a-z]{1,10})\s*</type>")
_GUEST_TYPES = {
    "pv": GuestType.X86_PV, "linux": GuestType.X86_PV, "xen": GuestType.X86_PV,
    "hvm": GuestType.X86_HVM,
}  # fmt: skip


@frozen
class Container:
    """:ivar has_magic: so that what follows is sure to be a legacy stream.
    :ivar guest_type: as the configuration has it; None where it does not say.
    :ivar xapi: device model's state is framed as XenServer did.
    :ivar migration: the bytes are those of `xl migrate`: a handshake may follow.
    """

    format: str
    records: Sequence[Record] = ()
    details: Mapping[str, object] = field(factory=dict)
    guest_type: GuestType | None = None
    has_magic: bool = True
    xapi: bool = False
    migration: bool = False

    def is_over(self, source: ByteSource) -> bool:
        """Whether the stream ends here."""
        return source.at_end() or (self.migration and _message_ahead(source) is not None)

    def finish(self, source: ByteSource) -> Iterator[Record]:
        """What is said behind the stream."""
        while self.migration and (message := _message_ahead(source)) is not None:
            offset = source.offset
            yield Record(XL_HANDSHAKE, source.take(len(message), "handshake"), offset)


def _message_ahead(source: ByteSource) -> bytes | None:
    ahead = source.peek(64)
    for message in HANDSHAKE:
        if ahead.startswith(message):
            # the results are one byte, which may stand at the very end
            return message + ahead[len(message) :][: message is HANDSHAKE[2]]
    return None


def bare(_source: ByteSource) -> Container:
    return Container("legacy", has_magic=False)


def xl(source: ByteSource) -> Container:
    """xl 4.1 to 4.5: the header of today with the bit for "stream v2" clear. The record says
    it set, as what follows it are records of that stream."""
    offset = source.offset
    head = bytes(source.take(XL_HEADER_BYTES, "xl header"))
    order, flags, _, size = (
        int.from_bytes(head[at : at + 4], "little") for at in range(32, XL_HEADER_BYTES, 4)
    )
    expect("xl magic", offset, head.startswith(XL_MAGIC), repr(XL_MAGIC), head[:32])
    expect("xl byteorder", offset + 32, order == XL_BYTEORDER,
           f"{XL_BYTEORDER:#010x} (little-endian)", f"{order:#010x}")  # fmt: skip
    expect("xl mandatory flags", offset + 36, not flags & ~XL_JSON,
           f"no bits outside {XL_JSON:#x}: a legacy stream", f"{flags:#x}")  # fmt: skip
    expect("xl optional_data_len", offset + 44, size <= CONFIG_MAX,
           f"at most {CONFIG_MAX} bytes", size)  # fmt: skip
    optional = bytes(source.take(size, "xl optional data"))
    body = head[:36] + (flags | XL_V2).to_bytes(4, "little") + head[40:] + optional
    return Container(
        "xl-legacy", [Record(RecordType(XL_HEADER), body, offset)],
        {"xl_mandatory_flags": flags, "xl_optional_bytes": size},
        _xl_guest_type(optional[4:], is_json=bool(flags & XL_JSON)), migration=True,
    )  # fmt: skip


def _xl_guest_type(config: bytes, *, is_json: bool) -> GuestType | None:
    if not is_json:
        return GuestType.X86_HVM if _XL_TEXT_HVM.search(config) else None
    try:
        kind = json.loads(config.rstrip(b"\0"))["c_info"]["type"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return _GUEST_TYPES.get(kind) if isinstance(kind, str) else None


def xl_migration(source: ByteSource) -> Container:
    """Both directions in one file: what the receiver says first, then as :func:`xl`."""
    offset = source.offset
    banner = Record(XL_HANDSHAKE, source.take(len(BANNER), "banner of xl migrate"), offset)
    found = xl(source)
    return Container(
        "xl-migrate-legacy", [banner, *found.records], found.details, found.guest_type,
        migration=True,
    )  # fmt: skip


def xend(source: ByteSource) -> Container:
    """xend's file: a configuration in an s-expression. Its relocation sends the same, behind
    a line that says so."""
    for line in XEND_RELOCATION:
        if source.peek(len(line)) == line:
            source.take(len(line), "request of a relocation")
    offset = source.offset
    head = source.take(20, "header of xend's file")
    expect("xend magic", offset, bytes(head[:16]) == XEND_MAGIC, repr(XEND_MAGIC), bytes(head[:16]))
    size = int.from_bytes(head[16:], "big")
    expect("size of xend's configuration", offset + 16, 0 < size <= CONFIG_MAX,
           f"1 to {CONFIG_MAX} bytes", size)  # fmt: skip
    config = bytes(source.take(size, "xend's configuration"))
    try:
        domain = parse(config)
    except FieldError as error:
        raise FormatError(
            what=f"xend's configuration: {error.field}", offset=offset + 20,
            expected=error.expected, got=error.got,
        ) from error  # fmt: skip
    return Container(
        "xend", [Record(XEND_CONFIG, config, offset + 20)], {"xend_config_bytes": size},
        _xend_guest_type(domain),
    )  # fmt: skip


def _xend_guest_type(domain: Expression) -> GuestType | None:
    image = member(domain, "image")
    builder = image[0][0] if image and isinstance(image[0], list) and image[0] else None
    return _GUEST_TYPES.get(builder) if isinstance(builder, str) else None


def xapi(source: ByteSource) -> Container:
    """XenServer before its structured images; the toolstack was 32-bit then."""
    offset = source.offset
    magic = bytes(source.take(len(XAPI_MAGIC), "xapi signature"))
    expect("xapi signature", offset, magic == XAPI_MAGIC, repr(XAPI_MAGIC), magic)
    return Container("xapi-legacy", xapi=True)


def libvirt(source: ByteSource) -> Container:
    """libvirt's libxl driver, header version 1. The record says 2, as what follows it are
    records of that stream."""
    offset = source.offset
    head = bytes(source.take(LIBVIRT_HEADER_BYTES, "libvirt header"))
    version, size = (int.from_bytes(head[at : at + 4], "little") for at in (16, 20))
    expect("libvirt magic", offset, head.startswith(LIBVIRT_MAGIC), repr(LIBVIRT_MAGIC), head[:16])
    expect("libvirt version", offset + 16, version == 1, "1: a legacy stream", version)
    expect("libvirt xmlLen", offset + 20, 0 < size <= CONFIG_MAX,
           f"1 to {CONFIG_MAX} bytes", size)  # fmt: skip
    xml = bytes(source.take(size, "libvirt's domain XML"))
    body = head[:16] + (2).to_bytes(4, "little") + head[20:] + xml
    found = _XML_TYPE.search(xml)
    return Container(
        "libvirt-legacy", [Record(RecordType(LIBVIRT_HEADER, mandatory=False), body, offset)],
        {"libvirt_version": version, "libvirt_xml_bytes": size},
        _GUEST_TYPES.get(found[1].decode()) if found else None,
    )  # fmt: skip
