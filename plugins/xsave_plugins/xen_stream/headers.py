"""What is wrong with a header, said once for the reader, the handlers and the writer.

Each function looks at the bytes of one header and gives the first fault, or None. Who asks
knows whether that is an error of a stream, of a record, or of an output.

Source: libxc migration stream specification, revision 3; libxl migration stream
specification, revision 2; xl's save file as Xen 4.6 to 4.22 read it.
"""

from __future__ import annotations

from xsave import Buffer, frozen

from . import framing as f


@frozen
class Fault:
    """:ivar at: offset of the field in the header, bytes."""

    what: str
    at: int
    expected: str
    got: str


def xl_fault(head: Buffer) -> Fault | None:
    """:param head: the fixed part, 48 bytes or more."""
    fields = f.XlHeader.decode(head[: f.XlHeader.SIZE])
    if fields.magic != f.XL_MAGIC:
        return Fault("xl magic", 0, repr(f.XL_MAGIC), repr(fields.magic))
    if fields.byteorder != f.XL_BYTEORDER:
        return Fault("xl byteorder", 32, f"{f.XL_BYTEORDER:#010x} (little-endian)",
                     f"{fields.byteorder:#010x}")  # fmt: skip
    known = f.XL_FLAG_JSON | f.XL_FLAG_V2
    if (flags := fields.mandatory_flags) & ~known:
        return Fault("xl mandatory flags", 36, f"no bits outside {known:#x}", f"{flags:#x}")
    if not flags & f.XL_FLAG_V2:
        return Fault("xl mandatory flags", 36, "the stream v2 bit (Xen 4.6 on)",
                     f"{flags:#x}: a legacy stream")  # fmt: skip
    if (size := fields.optional_data_len) > f.CONFIG_MAX:
        return Fault("xl optional_data_len", 44, f"at most {f.CONFIG_MAX} bytes", str(size))
    return None


def libvirt_fault(head: Buffer) -> Fault | None:
    """:param head: the fixed part, 64 bytes or more."""
    fields = f.LibvirtHeader.decode(head[: f.LibvirtHeader.SIZE])
    if fields.magic != f.LIBVIRT_MAGIC:
        return Fault("libvirt magic", 0, repr(f.LIBVIRT_MAGIC), repr(fields.magic))
    if fields.version != f.LIBVIRT_VERSION:
        return Fault("libvirt version", 16, "2: a libxl v2 stream", str(fields.version))
    if not 0 < (size := fields.xml_len) <= f.CONFIG_MAX:
        return Fault("libvirt xmlLen", 20, f"1 to {f.CONFIG_MAX} bytes", str(size))
    return None


def libxl_fault(head: Buffer) -> Fault | None:
    """:param head: 16 bytes."""
    ident, version, options = f.LIBXL_HEADER.unpack(head)
    if ident != f.LIBXL_IDENT:
        return Fault("libxl ident", 0, repr(f.LIBXL_IDENT), repr(ident))
    if version != f.LIBXL_VERSION:
        return Fault("libxl version", 8, str(f.LIBXL_VERSION), str(version))
    if options & f.LIBXL_BIG_ENDIAN:
        return Fault("libxl options", 12, "a little-endian stream", f"{options:#x}: big-endian")
    return None


def libxc_fault(head: Buffer) -> Fault | None:
    """:param head: image header and domain header, 40 bytes."""
    marker, ident, version, options, _, _ = f.LIBXC_IMAGE_HEADER.unpack_from(head)
    if marker != f.LIBXC_MARKER:
        return Fault("libxc marker", 0, f.LIBXC_MARKER.hex(), marker.hex())
    if ident != f.LIBXC_ID:
        return Fault("libxc id", 8, repr(f.LIBXC_ID), repr(ident))
    if version not in f.LIBXC_VERSIONS:
        return Fault("libxc version", 12, "2 or 3", str(version))
    if options & f.LIBXC_BIG_ENDIAN:
        return Fault("libxc options", 16, "a little-endian stream", f"{options:#x}: big-endian")
    return _domain_fault(head)


def _domain_fault(head: Buffer) -> Fault | None:
    size = f.LIBXC_IMAGE_HEADER.size
    number, shift, _, _, _ = f.LIBXC_DOMAIN_HEADER.unpack_from(head, size)
    if number not in f.GUEST_TYPES:
        return Fault("libxc domain type", size, "1 (x86 PV) or 2 (x86 HVM)", str(number))
    if shift != f.PAGE_SHIFT:
        return Fault("libxc page_shift", size + 4, str(f.PAGE_SHIFT), str(shift))
    return None
