"""xapi's, libvirt's and xl's own wrappings around streams of today."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import pytest

import xsave
from tests.plugins.xen_stream import build as b
from tests.plugins.xen_stream.streams import BY_NAME, convert, names, open_reader, read, run
from xsave import (
    Format,
    FormatError,
    ImageInfo,
    LossError,
    OutputError,
    RecordHandler,
    StreamError,
    UsageError,
)
from xsave.testing import FormatSuite, HandlerSuite, MemorySink
from xsave_plugins.xen_stream import records as r

if TYPE_CHECKING:
    from xsave import Event

XENOPS, LIBXC, LIBXC_LEGACY, QEMU, VGPU = 0x0F, 0xF0, 0xF2, 0x0F00, 0x0F10
VARSTORED, SWTPM0, SWTPM, END = 0x0F11, 0x0F12, 0x0F13, 0xFFFF
METADATA = b'((time 20260101T00:00:00Z)(word_size 64)(vm_str "...")(xs_subtree ((a b))))'
BANNER = b"xl migration receiver ready, send binary domain data.\n"
RECEIVED = b"domain received, ready to unpause\0"
YOURS = b"domain is yours, you are cleared to unpause\0"
RESULTS = b"my copy unpause results are as follows\0"
XML = b"<domain type='xen'><name>small</name><!-- &lol; --></domain>\0"
QEVM = b"QEVM\0\0\0\3\0"
DEVICE_MODEL = [b.emulator(), b.Rec(b.LIBXL_END)]


def part(number: int, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<QQ", number, len(body) if length is None else length) + body


def xapi(
    stream: bytes, *parts: bytes, metadata: bytes = METADATA, libxc: int = LIBXC, end: bool = True
) -> bytes:
    head = b"XenSavedDomv2-\n" + part(XENOPS, metadata) + part(libxc)
    return head + stream + b"".join(parts) + (part(END) if end else b"")


def libvirt(stream: bytes, xml: bytes = XML, version: int = 2) -> bytes:
    return b"libvirt-xml\n \0 \r" + struct.pack("<II", version, len(xml)) + bytes(40) + xml + stream


class _Suite(FormatSuite):
    stream: ClassVar[bytes]

    def info(self) -> ImageInfo:
        return open_reader(self.stream, self.format.name).info

    def events(self) -> Sequence[Event]:
        return read(self.stream, self.format.name)


class TestXapi(_Suite):
    format: ClassVar[Format] = BY_NAME["xapi"]
    stream = xapi(b.libxc(b.hvm()), part(VARSTORED, b"keys"), part(SWTPM, b"tpm"), part(QEMU, QEVM))
    images = (
        stream,
        xapi(b.libxc(b.pv())),
        xapi(b.libxc(b.hvm(2), version=2), part(SWTPM0, b""), libxc=LIBXC_LEGACY),
        xapi(b.libxc(b.hvm()), metadata=b""),
        xapi(b.bare_remus(b.hvm(), [b.hvm_round()], end=True)),
    )


class TestLibvirt(_Suite):
    format: ClassVar[Format] = BY_NAME["libvirt"]
    stream = libvirt(b.libxl(b.libxc(b.hvm()), DEVICE_MODEL))
    images = (stream, libvirt(b.libxl(b.libxc(b.pv())), b"\0"))


class TestHandshake(HandlerSuite):
    handler: ClassVar[RecordHandler[object]] = r.XlHandshakeHandler()
    bodies = (BANNER, RECEIVED, YOURS, RESULTS + b"\0", RESULTS + b"\xfd")
    refused = (b"", BANNER[:-1], RECEIVED[:-1], RESULTS + b"\0\0", b"hello\0")


class TestLibvirtHeader(HandlerSuite):
    handler: ClassVar[RecordHandler[object]] = r.LibvirtHeaderHandler()
    bodies = (libvirt(b""), libvirt(b"", b"\0"))
    refused = (libvirt(b"", version=1), libvirt(b"", b""), libvirt(b"more"), libvirt(b"")[:-1])


class TestXapiLibxc(HandlerSuite):
    handler: ClassVar[RecordHandler[object]] = r.XapiLibxcHandler()
    bodies = (part(LIBXC), part(LIBXC_LEGACY))
    refused = (b"", bytes(15), bytes(17))


@pytest.mark.parametrize(
    "handler",
    [r.XapiMetadataHandler(), r.VarstoredHandler(), r.Swtpm0Handler(), r.SwtpmHandler()],
    ids=lambda handler: handler.name,
)
def test_texts_and_states_of_others_are_kept_as_they_are(handler: RecordHandler[bytes]) -> None:
    for body in (b"", b"((time 0))", bytes(range(256))):
        state = handler.decode(memoryview(body))
        assert b"".join(handler.encode(state)) == body
        assert handler.describe(state, {})


# xapi


def test_xapis_parts_become_records_and_the_device_models_state_qemus() -> None:
    events = read(TestXapi.stream, "xapi")
    found = {event.name: event for event in events}
    assert found["xen.qemu.context"].body == bytes(8) + QEVM
    assert found["xen.xapi.varstored"].body == b"keys"
    assert found["xen.xapi.varstored"].type.mandatory
    assert not found["xen.xapi.xenops"].type.mandatory
    assert names(events)[:2] == ["xen.xapi.xenops", "xen.xapi.libxc"]


def test_an_xl_image_goes_to_xapis_framing_and_back(manager: xsave.PluginManager) -> None:
    data = b.xl(b.libxl(b.libxc(b.hvm()), DEVICE_MODEL))
    made, report = run(data, "xapi", manager)
    assert report.headers_left_out == ["xen.xl.header"] and not report.partial
    assert made.startswith(b"XenSavedDomv2-\n" + struct.pack("<Q", XENOPS))
    assert b"(word_size 64)(xs_subtree ()))" in made[:200]
    assert made.endswith(part(QEMU, b"device model") + part(END))
    back, _ = convert(made, "xapi", "libxl")
    assert back == b.libxl(b.libxc(b.hvm()), [b.Rec(3, bytes(8) + b"device model"), b.Rec(0)])


def test_what_has_no_place_in_xapis_framing_is_refused(manager: xsave.PluginManager) -> None:
    xenstore = b.emulator(b.XENSTORE_DATA, b"physmap/0/name\0vram\0")
    data = b.libxl(b.libxc(b.hvm()), [xenstore, *DEVICE_MODEL])
    with pytest.raises(LossError, match=r"xen.qemu.xenstore_data is mandatory"):
        run(data, "xapi", manager)
    with pytest.raises(LossError, match=r"xen.xapi.varstored.*convert to xapi or native instead"):
        run(TestXapi.stream, "libxl", manager)
    with pytest.raises(OutputError, match=r"ends at a checkpoint.*convert to libxl, xl or libxc"):
        convert(b.bare_remus(b.hvm(), []), "libxc", "xapi")


def test_the_stream_inside_goes_to_other_containers(manager: xsave.PluginManager) -> None:
    pv, report = run(xapi(b.libxc(b.pv())), "xl", manager)
    assert report.headers_left_out == ["xen.xapi.xenops", "xen.xapi.libxc"]
    assert pv.endswith(b.libxl(b.libxc(b.pv())))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (
            b"XenSavedDomv2-\n" + part(VGPU),
            r"offset 0xf: .*got 0xf10 \(Demu, the state of",
        ),
        (b"XenSavedDomv2-\n" + part(0xF1), r"got 0xf1 \(Libxl, reserved"),
        (b"XenSavedDomv2-\n" + part(XENOPS) * 2, "expected Xenops once, then Libxc, got 0xf"),
        (b"XenSavedDomv2-\n" + part(LIBXC, length=8), "length of an xapi part at offset 0x17"),
        (b"XenSavedDomv2-\n" + part(XENOPS, length=1 << 40), "expected at most 16777216 bytes"),
        (xapi(b.libxc(b.hvm()), part(VGPU)), r"type of an xapi part at .*\(Demu"),
        (xapi(b.libxc(b.hvm()), part(QEMU) * 2), "each once, got 0xf00"),
        (xapi(b.libxc(b.hvm()), part(VARSTORED, length=1 << 40)), "length of an xapi part"),
        (xapi(b.libxc(b.pv()), part(QEMU)), "no device model's state with a PV guest"),
        (xapi(b.libxc(b.pv()), part(END, length=1)), "length of an xapi part"),
        (xapi(b.libxc(b.pv()), end=False), "image is cut"),
        (xapi(b.libxc(b.pv())) + b"\0", "nothing after END"),
    ],
)
def test_a_wrong_xapi_image_is_refused_with_its_place(data: bytes, match: str) -> None:
    with pytest.raises(StreamError, match=match):
        read(data, "xapi")


def test_an_odd_xapi_header_is_not_written() -> None:
    odd = xsave.Record(xsave.RecordType("xen.xapi.libxc", mandatory=False), part(LIBXC, length=3))
    info = ImageInfo("x", xsave.GuestType.X86_HVM)
    writer = BY_NAME["xapi"].writer(MemorySink(), info, xsave.WriteOptions())
    writer.put(odd)
    with pytest.raises(OutputError, match=r"xen.xapi.libxc: expected the header of a libxc stream"):
        writer.finish()


# libvirt


def test_libvirts_file_comes_back_and_gives_its_stream(manager: xsave.PluginManager) -> None:
    native, _ = run(TestLibvirt.stream, "native", manager)
    back, report = run(native, "libvirt", manager)
    assert back == TestLibvirt.stream and not report.headers_left_out
    xl, report = run(TestLibvirt.stream, "libxl", manager)
    assert xl == b.libxl(b.libxc(b.hvm()), DEVICE_MODEL)
    assert report.headers_left_out == ["xen.libvirt.header"]


def test_without_the_domains_xml_none_can_be_written() -> None:
    with pytest.raises(UsageError, match=r"begins with the domain's XML, which is not in this"):
        convert(b.libxc(b.pv()), "libxc", "libvirt")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (libvirt(b"", version=3), "libvirt version at offset 0x10: expected 2: a libxl v2 stream"),
        (libvirt(b"", b""), "libvirt xmlLen at offset 0x14: expected 1 to 16777216 bytes, got 0"),
        (libvirt(b"")[:20] + b"\xff" * 44, "libvirt xmlLen at offset 0x14"),
    ],
)
def test_a_wrong_libvirt_header_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        read(data, "libvirt")


# xl migrate


@pytest.mark.parametrize(
    "said", [b"", YOURS, RECEIVED + YOURS + RESULTS + b"\0", YOURS + RESULTS + b"\xfd" + YOURS]
)
def test_a_captured_conversation_is_read_word_for_word(
    said: bytes, manager: xsave.PluginManager
) -> None:
    inner = b.xl(b.libxl(b.libxc(b.hvm()), DEVICE_MODEL))
    events = read(BANNER + inner + said, "xl-migrate")
    words = [bytes(event.body) for event in events if event.name == "xen.xl.handshake"]
    assert b"".join(words) == BANNER + said
    made, report = run(BANNER + inner + said, "xl", manager)
    assert made == inner and not report.partial
    assert set(report.headers_left_out) == {"xen.xl.handshake"}
    sender, _ = run(inner + said, "xl", manager)
    assert sender == inner


def test_other_words_behind_a_stream_are_refused() -> None:
    inner = b.xl(b.libxl(b.libxc(b.hvm()), DEVICE_MODEL))
    for said in (b"hello\0", YOURS[:-1], YOURS + b"\0"):
        with pytest.raises(FormatError, match="nothing after END"):
            read(inner + said, "xl")
    with pytest.raises(FormatError, match=r"banner of xl migrate at offset 0x0"):
        read(inner + bytes(60), "xl-migrate")


def test_a_conversation_is_never_written() -> None:
    assert not BY_NAME["xl-migrate"].writable
