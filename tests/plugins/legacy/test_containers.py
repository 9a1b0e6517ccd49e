"""What stands before a legacy stream: read, shown, kept, and held against the stream."""

from __future__ import annotations

import io
import json
import struct

import pytest

import xsave
from tests.plugins.legacy import build as o
from tests.plugins.legacy.streams import BY_NAME, bodies, convert, names, open_reader, read
from tests.plugins.xen_stream import build as b
from xsave import FormatError, StreamError, UsageError


@pytest.mark.parametrize("image", o.images())
def test_each_beginning_is_claimed_by_one_format_of_all(
    image: str, manager: xsave.PluginManager
) -> None:
    head = o.images()[image][:4096]
    claimed = [e.item for e in manager.formats if e.item.has_magic and e.item.sniff(head)]
    name = image.split(maxsplit=1)[0]
    if name == "legacy":
        assert not claimed
        assert BY_NAME[name].sniff(head)
    else:
        assert [format_.name for format_ in claimed] == [name]
    assert BY_NAME[name].explain(head)


@pytest.mark.parametrize("image", o.images())
def test_the_whole_pipeline_takes_each(image: str, manager: xsave.PluginManager) -> None:
    data = o.images()[image]
    report = xsave.verify(io.BytesIO(data), manager=manager)
    assert report.source.format == image.split(maxsplit=1)[0]
    native = convert(data, "native", manager)
    assert xsave.verify(io.BytesIO(native), manager=manager).nr_pages == report.nr_pages
    found = xsave.inspect(io.BytesIO(data), manager=manager)
    assert all(getattr(item, "understood", True) for item in found.items)


@pytest.mark.parametrize("name", BY_NAME)
def test_none_is_ever_written(name: str, manager: xsave.PluginManager) -> None:
    with pytest.raises(UsageError, match=r"no format for writing is named"):
        convert(o.pv(8), name, manager)
    with pytest.raises(UsageError, match=r"never written"):
        BY_NAME[name].writer(None, xsave.ImageInfo(name), xsave.WriteOptions())  # type: ignore[arg-type]


# xl


def test_xls_header_is_kept_and_says_that_stream_v2_follows(manager: xsave.PluginManager) -> None:
    [header] = bodies(read(o.xl(o.hvm(8)), "xl-legacy"), "xen.xl.header")
    assert header == o.xl_header(flags=3)
    [text] = bodies(read(o.xl(o.pv(4), b"name='x'\n", 0), "xl-legacy"), "xen.xl.header")
    assert text == o.xl_header(b"name='x'\n", flags=2)
    converted = convert(o.xl(o.hvm(8)), "xl", manager)
    assert converted.startswith(header + b"LibxlFmt")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (o.xl(o.hvm(8), flags=5), "xl mandatory flags at offset 0x24: .*, got 0x5"),
        (o.xl(o.hvm(8))[:44] + b"\xff" * 4, "xl optional_data_len at offset 0x2c: .*at most"),
        (b.xl_header(flags=1, byteorder=0x04030201), "xl byteorder at offset 0x20"),
        (
            o.xl(o.pv(8)),
            "kind of guest at .*: expected x86_hvm, as the configuration says, got a stream of",
        ),
        (o.xl(o.pv(8), b"builder = 'hvm'\n", 0), "expected x86_hvm, as the configuration says"),
    ],
)
def test_a_wrong_xl_header_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        read(data, "xl-legacy")


@pytest.mark.parametrize("config", [b"{", b"[" * 100_000, b'{"c_info": 7}\0', b"\xff", b""])
def test_a_configuration_that_says_nothing_is_no_error(config: bytes) -> None:
    assert open_reader(o.xl(o.hvm(8), config), "xl-legacy").info.word_size == 8


def test_the_senders_half_of_a_migration_is_an_xl_file_with_a_word_behind_it() -> None:
    data = o.xl(o.hvm(8)) + o.MESSAGES[1]
    events = read(data, "xl-legacy")
    assert names(events)[-2:] == ["xen.qemu.context", "xen.xl.handshake"]
    assert bodies(events, "xen.libxc.end") == [b""]
    with pytest.raises(StreamError):
        read(data[:-1], "xl-legacy")


def test_a_whole_conversation_is_read_with_both_sides_words() -> None:
    said = bodies(read(o.images()["xl-migrate-legacy"], "xl-migrate-legacy"), "xen.xl.handshake")
    assert said == [o.BANNER, *o.MESSAGES[:2], o.MESSAGES[2] + b"\0"]


# xend


def test_xends_configuration_is_shown_as_data(manager: xsave.PluginManager) -> None:
    data = o.images()["xend hvm"]
    found = xsave.read_record(io.BytesIO(data), "xen.xend.config", manager=manager)
    assert bytes(found.record.body) == o.XEND_HVM
    json.dumps(found.item.fields)
    assert found.item.fields == {
        "config": [
            "domain", {"domid": "3"}, {"name": "a guest"}, {"memory": "1"},
            ["image", ["hvm", {"kernel": "x y"}, {"vcpus": "1"}]],
        ]
    }  # fmt: skip


def test_a_relocation_is_read_like_the_file_it_carries() -> None:
    for request in (b"receive\n", b"sslreceive\n"):
        data = request + o.xend(o.pv(8))
        assert BY_NAME["xend"].sniff(data[:4096])
        assert names(read(data, "xend")) == names(read(o.xend(o.pv(8)), "xend"))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (o.xend(o.pv(8), b"(domain"), r"xend's configuration: .* at offset 0x14: expected \), got"),
        (o.xend(o.pv(8), b""), "size of xend's configuration at offset 0x10: expected 1 to"),
        (b"LinuxGuestRecord" + b"\xff" * 4, "size of xend's configuration at offset 0x10"),
        (o.xend(o.hvm(8), o.XEND_PV), "expected x86_pv, as the configuration says"),
        (o.xend(o.pv(8), o.XEND_HVM), "expected x86_hvm, as the configuration says"),
        (
            o.xend(o.hvm(8, b"QemuDeviceModelRecordjunk"), o.XEND_HVM),
            "device model's state at .*QEVM",
        ),
    ],
)
def test_a_wrong_xend_file_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        read(data, "xend")


# xapi, libvirt


def test_xapis_device_models_state_has_its_own_framing() -> None:
    [body] = bodies(read(o.images()["xapi-legacy"], "xapi-legacy"), "xen.qemu.context")
    assert body == bytes(8) + o.QEVM
    wrong = o.xapi(o.hvm(4, b"QemuDeviceModelRecord" + o.qemu()[21:]))
    with pytest.raises(FormatError, match=r"signature of the device model's state at .*a newline"):
        read(wrong, "xapi-legacy")
    huge = o.xapi(o.hvm(4, b"QemuDeviceModelRecord\n\xff\xff\xff\xff"))
    with pytest.raises(FormatError, match=r"size of the device model's state at .*at most"):
        read(huge, "xapi-legacy")


def test_libvirts_header_is_kept_and_says_that_stream_v2_follows(
    manager: xsave.PluginManager,
) -> None:
    data = o.libvirt(o.hvm(8))
    [header] = bodies(read(data, "libvirt-legacy"), "xen.libvirt.header")
    assert header == o.libvirt(b"", version=2)
    converted = convert(data, "libvirt", manager)
    assert converted.startswith(header + b"LibxlFmt")
    assert xsave.verify(io.BytesIO(converted), manager=manager).source.format == "libvirt"
    for bad, match in (
        (o.libvirt(o.hvm(8), b""), "libvirt xmlLen at offset 0x14"),
        (o.libvirt(o.pv(8)), "kind of guest at .*: expected x86_hvm"),
    ):
        with pytest.raises(FormatError, match=match):
            read(bad, "libvirt-legacy")


@pytest.mark.parametrize("image", o.images())
def test_a_container_cut_in_its_header_is_cut(image: str, manager: xsave.PluginManager) -> None:
    data = o.images()[image]
    size = data.index(struct.pack("<I", o.P2M_SIZE))
    for at in {max(size - 1, 1), size // 2, size + 3}:
        with pytest.raises(StreamError):
            xsave.verify(io.BytesIO(data[:at]), manager=manager)
