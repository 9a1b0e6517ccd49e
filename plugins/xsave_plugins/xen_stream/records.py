"""Handlers of the records that frame a Xen stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from xsave import (
    Buffer,
    Closes,
    EmptyHandler,
    FieldError,
    Handler,
    Highlight,
    LayoutHandler,
    Phase,
    RecordHandler,
    Redaction,
    frozen,
    to_json,
)

from . import framing as f
from .config import config_highlights
from .headers import Fault, libvirt_fault, libxc_fault, libxl_fault, xl_fault
from .redaction import redact_config

if TYPE_CHECKING:
    from xsave import Domain, Entries, XlFacet

S = TypeVar("S")


def _refuse(fault: Fault | None) -> None:
    if fault is not None:
        raise FieldError(field=fault.what, expected=fault.expected, got=fault.got)


@frozen
class XlFileHeader:
    """An xl file's header with its optional data.

    :ivar config: as stored: JSON (since Xen 4.5) with a trailing NUL, or an xl
        configuration file's text.
    :ivar tail: optional data after the configuration; xl writes none.
    """

    header: f.XlHeader
    config: bytes
    tail: bytes
    has_config_len: bool


class _HeaderHandler(RecordHandler[S]):
    """A container's header. A domain has none, but for its configuration: the writer of that
    container makes it, and a domain being restored has been built from what it says."""

    phase = Phase.HEADER

    def apply(self, domain: Domain, state: S) -> None:
        pass


class _MarkHandler(EmptyHandler):
    """A mark in the stream of a saved domain, if it is a guest of Xen's kinds."""

    def collect(self, domain: Domain) -> Iterator[None]:
        if domain.info.guest_type in f.BOTH:
            yield None


class XlHeaderHandler(_HeaderHandler[XlFileHeader]):
    name = f.XL_HEADER
    summary = "xl file header with the domain's configuration"
    redaction = Redaction.CLEANED

    def collect(self, domain: Domain) -> Iterator[XlFileHeader]:
        """With the configuration that its host's toolstack keeps of it, if one does."""
        xl: XlFacet | None = domain.facet("xl")
        if xl is None or not (config := xl.config()):
            return
        flags = f.XL_FLAG_V2 | f.XL_FLAG_JSON
        config = config.rstrip(b"\0") + b"\0"
        header = f.XlHeader(f.XL_MAGIC, f.XL_BYTEORDER, flags, 0, 4 + len(config))
        yield XlFileHeader(header, config, b"", has_config_len=True)

    def decode(self, body: memoryview) -> XlFileHeader:
        header = f.XlHeader.decode_at(body, 0)
        _refuse(xl_fault(body))
        rest = bytes(body[f.XlHeader.SIZE :])
        if len(rest) != header.optional_data_len:
            raise FieldError(
                field="optional_data", expected=f"{header.optional_data_len} bytes",
                got=f"{len(rest)} bytes",
            )  # fmt: skip
        if not rest:
            return XlFileHeader(header, b"", b"", has_config_len=False)
        if len(rest) < 4:
            raise FieldError(field="config_len", expected="4 bytes", got=f"{len(rest)} bytes")
        size = int.from_bytes(rest[:4], "little")
        if size > len(rest) - 4:
            raise FieldError(field="config_len", expected=f"at most {len(rest) - 4}", got=str(size))
        return XlFileHeader(header, rest[4 : 4 + size], rest[4 + size :], has_config_len=True)

    def encode(self, state: XlFileHeader) -> Sequence[Buffer]:
        size = len(state.config).to_bytes(4, "little") if state.has_config_len else b""
        return (state.header.encode(), size, state.config, state.tail)

    def highlights(self, state: XlFileHeader, seen: Mapping[str, Any]) -> Iterator[Highlight]:
        yield from config_highlights(state.config)

    def redact(self, state: XlFileHeader, seen: Mapping[str, Any]) -> XlFileHeader:
        """A configuration that is JSON keeps its shape and numbers; any other one goes."""
        config = redact_config(state.config)
        size = state.header.optional_data_len - len(state.config) - len(state.tail) + len(config)
        header = state.header.replace(optional_data_len=size)
        return XlFileHeader(header, config, b"", state.has_config_len)

    def describe(self, state: XlFileHeader, seen: Mapping[str, Any]) -> Any:
        shown = {"header": to_json(state.header), "config": None, "tail": state.tail.hex()}
        text = state.config.rstrip(b"\0")
        if state.header.mandatory_flags & f.XL_FLAG_JSON:
            try:
                shown["config"] = json.loads(text)
            except (ValueError, RecursionError):
                shown["config_error"] = "marked as JSON, but it is not"
            else:
                return shown
        shown["config"] = text.decode("utf-8", "replace") if text else None
        return shown


@frozen
class Handshake:
    """:ivar result: of a restored guest's start: 0, or the negated error; None in others."""

    message: str
    result: int | None


class XlHandshakeHandler(_HeaderHandler[Handshake]):
    """One thing that one end of `xl migrate` says: of a conversation that was captured, before
    and behind its stream. In no file of xl's, and no part of the guest."""

    name = f.XL_HANDSHAKE
    summary = "what the two ends of xl migrate say to each other"
    mandatory = False
    before = frozenset({f.XL_HEADER})

    def decode(self, body: memoryview) -> Handshake:
        said = bytes(body)
        if said == f.XL_BANNER:
            return Handshake(said.decode(), None)
        message = f.message_ahead(said)
        if message is None or len(message) != len(said):
            raise FieldError(field="message", expected="one of xl migrate's", got=repr(said[:64]))
        text, _, result = said.partition(b"\0")
        signed = int.from_bytes(result, "little", signed=True) if result else None
        return Handshake(text.decode(), signed)

    def encode(self, state: Handshake) -> Sequence[Buffer]:
        text = state.message.encode()
        if text == f.XL_BANNER:
            return (text,)
        result = b"" if state.result is None else state.result.to_bytes(1, "little", signed=True)
        return (text, b"\0", result)


@frozen
class LibvirtFileHeader:
    """:ivar xml: the domain, with its NUL, as stored: text, never parsed here."""

    header: f.LibvirtHeader
    xml: bytes


class LibvirtHeaderHandler(_HeaderHandler[LibvirtFileHeader]):
    name = f.LIBVIRT_HEADER
    summary = "libvirt's header with the domain's XML"
    mandatory = False

    def decode(self, body: memoryview) -> LibvirtFileHeader:
        header = f.LibvirtHeader.decode_at(body, 0)
        _refuse(libvirt_fault(body))
        xml = bytes(body[f.LibvirtHeader.SIZE :])
        if len(xml) != header.xml_len:
            raise FieldError(
                field="xml", expected=f"{header.xml_len} bytes", got=f"{len(xml)} bytes"
            )
        return LibvirtFileHeader(header, xml)

    def encode(self, state: LibvirtFileHeader) -> Sequence[Buffer]:
        return (state.header.encode(), state.xml)

    def describe(self, state: LibvirtFileHeader, seen: Mapping[str, Any]) -> Any:
        text = state.xml.rstrip(b"\0").decode("utf-8", "replace")
        return {"header": to_json(state.header), "xml": text}


class XapiMetadataHandler(_HeaderHandler[bytes]):
    """Text: an s-expression of keys and values, of which xapi's is the VM's configuration."""

    name = f.XAPI_METADATA
    summary = "xapi's metadata of a guest (Xenops)"
    mandatory = False

    def decode(self, body: memoryview) -> bytes:
        return bytes(body)

    def encode(self, state: bytes) -> Sequence[Buffer]:
        return (state,)

    def describe(self, state: bytes, seen: Mapping[str, Any]) -> Any:
        return {"text": state.decode("utf-8", "replace")}


class XapiLibxcHandler(LayoutHandler):
    name = f.XAPI_LIBXC_HEADER
    summary = "header before the libxc stream in xapi's images"
    mandatory = False
    phase = Phase.HEADER
    after = frozenset({f.XAPI_METADATA})
    layout = f.XapiLibxc

    def apply(self, domain: Domain, state: Any) -> None:
        pass


class _XapiPartHandler(RecordHandler[bytes]):
    """State that a program beside the device model keeps, and that only it understands."""

    phase = Phase.DEVICE_MODEL
    after = frozenset({f.QEMU_CONTEXT})

    def decode(self, body: memoryview) -> bytes:
        return bytes(body)

    def encode(self, state: bytes) -> Sequence[Buffer]:
        return (state,)

    def describe(self, state: bytes, seen: Mapping[str, Any]) -> Any:
        return {"size_bytes": len(state), "first_bytes": state[:64].hex()}


class VarstoredHandler(_XapiPartHandler):
    name = "xen.xapi.varstored"
    summary = "UEFI variables of a guest of xapi's"


class Swtpm0Handler(_XapiPartHandler):
    name = "xen.xapi.swtpm0"
    summary = "virtual TPM of a guest of xapi's, in its first form"


class SwtpmHandler(_XapiPartHandler):
    name = "xen.xapi.swtpm"
    summary = "virtual TPM of a guest of xapi's"


@frozen
class LibxlHeader:
    ident: str
    version: int
    options: int
    big_endian: bool
    converted_from_legacy: bool


class LibxlHeaderHandler(_HeaderHandler[LibxlHeader]):
    name = f.LIBXL_STREAM_HEADER
    summary = "libxl stream header"
    redaction = Redaction.KEPT
    after = frozenset({f.XL_HEADER})

    def decode(self, body: memoryview) -> LibxlHeader:
        if len(body) != f.LIBXL_HEADER.size:
            raise FieldError(
                field="libxl header", expected=f"{f.LIBXL_HEADER.size} bytes", got=f"{len(body)}"
            )
        _refuse(libxl_fault(body))
        ident, version, options = f.LIBXL_HEADER.unpack(body)
        return LibxlHeader(
            ident.decode("latin-1"), version, options, bool(options & 1), bool(options & 2)
        )

    def encode(self, state: LibxlHeader) -> Sequence[Buffer]:
        ident = state.ident.encode("latin-1")
        return (f.LIBXL_HEADER.pack(ident, state.version, state.options),)


@frozen
class LibxcHeader:
    """Image header and domain header; ``reserved`` are the image header's two."""

    marker: bytes
    id: str
    version: int
    options: int
    reserved: tuple[int, int]
    domain: f.DomainHeader


class LibxcHeaderHandler(_HeaderHandler[LibxcHeader]):
    name = f.LIBXC_STREAM_HEADER
    summary = "libxc image header and domain header"
    redaction = Redaction.KEPT
    after = frozenset({f.LIBXC_CONTEXT})

    def decode(self, body: memoryview) -> LibxcHeader:
        size = f.LIBXC_IMAGE_HEADER.size
        if len(body) != size + f.DomainHeader.SIZE:
            raise FieldError(field="libxc headers", expected="40 bytes", got=f"{len(body)}")
        _refuse(libxc_fault(body))
        marker, ident, version, options, *reserved = f.LIBXC_IMAGE_HEADER.unpack_from(body)
        return LibxcHeader(
            marker, ident.decode("latin-1"), version, options, (reserved[0], reserved[1]),
            f.DomainHeader.decode_at(body, size),
        )  # fmt: skip

    def encode(self, state: LibxcHeader) -> Sequence[Buffer]:
        head = f.LIBXC_IMAGE_HEADER.pack(
            state.marker, state.id.encode("latin-1"), state.version, state.options, *state.reserved
        )
        return (head, state.domain.encode())


class LibxcContextHandler(EmptyHandler):
    name = f.LIBXC_CONTEXT
    summary = "the libxc stream begins here"
    phase = Phase.HEADER
    after = frozenset({f.LIBXL_STREAM_HEADER})


class StaticDataEndHandler(_MarkHandler):
    name = f.STATIC_DATA_END
    summary = "end of what is needed to build an empty guest (stream version 3)"
    phase = Phase.STATIC_DATA
    after = frozenset({"xen.pv.info", "xen.x86.cpuid_policy", "xen.x86.msr_policy"})


class VerifyHandler(EmptyHandler):
    name = "xen.libxc.verify"
    summary = "all pages follow once more, to be compared"
    phase = Phase.MEMORY


class CheckpointHandler(_MarkHandler):
    name = f.CHECKPOINT
    closes = Closes.CHECKPOINT
    summary = "a consistent point; the stream goes on (Remus, COLO)"
    phase = Phase.END_OF_CHECKPOINT
    after = frozenset({"xen.x86.tsc_info", "xen.pv.vcpu_msrs", "xen.hvm.context"})


@frozen(eq=False)
class PfnList:
    """:ivar pfns: (n,) u64, in no order."""

    pfns: Entries


class CheckpointDirtyPfnListHandler(RecordHandler[PfnList]):
    """Travels from the secondary to the primary only (COLO), so in no save image."""

    name = "xen.libxc.checkpoint_dirty_pfn_list"
    summary = "pfns the secondary has written (COLO back channel)"
    redaction = Redaction.KEPT
    phase = Phase.END_OF_CHECKPOINT

    def decode(self, body: memoryview) -> PfnList:
        if len(body) % 8:
            raise FieldError(field="pfns", expected="a multiple of 8 bytes", got=f"{len(body)}")
        import numpy as np

        return PfnList(np.frombuffer(bytes(body), "<u8").astype(np.uint64, copy=False))

    def encode(self, state: PfnList) -> Sequence[Buffer]:
        return (state.pfns.astype("<u8", copy=False).tobytes(),)


class LibxcEndHandler(_MarkHandler):
    name = f.LIBXC_END
    closes = Closes.STREAM
    summary = "end of the libxc stream"
    phase = Phase.END_OF_CHECKPOINT
    after = frozenset({f.CHECKPOINT})


class CheckpointEndHandler(_MarkHandler):
    name = f.CHECKPOINT_END
    closes = Closes.CHECKPOINT
    summary = "libxl's part of a checkpoint is complete"
    phase = Phase.DEVICE_MODEL
    after = frozenset({"xen.qemu.context"})


class CheckpointStateHandler(LayoutHandler):
    name = "xen.libxl.checkpoint_state"
    summary = "what the two ends of COLO tell each other"
    redaction = Redaction.KEPT
    phase = Phase.DEVICE_MODEL
    layout = f.CheckpointState


class LibxlEndHandler(_MarkHandler):
    name = f.LIBXL_END
    closes = Closes.STREAM
    summary = "end of the libxl stream"
    phase = Phase.END


HANDLERS: tuple[Handler, ...] = (
    XlHandshakeHandler(),
    XlHeaderHandler(),
    LibvirtHeaderHandler(),
    XapiMetadataHandler(),
    XapiLibxcHandler(),
    LibxlHeaderHandler(),
    LibxcContextHandler(),
    LibxcHeaderHandler(),
    StaticDataEndHandler(),
    VerifyHandler(),
    CheckpointHandler(),
    CheckpointDirtyPfnListHandler(),
    LibxcEndHandler(),
    CheckpointEndHandler(),
    CheckpointStateHandler(),
    LibxlEndHandler(),
    VarstoredHandler(),
    Swtpm0Handler(),
    SwtpmHandler(),
)
