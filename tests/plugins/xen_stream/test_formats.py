"""The three nestings by the contract's own suite, and their names and beginnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import pytest

import xsave
from tests.plugins.xen_stream import build as b
from tests.plugins.xen_stream.streams import BY_NAME, open_reader, read
from xsave import Format, ImageInfo, UnknownNameError
from xsave.testing import FormatSuite

if TYPE_CHECKING:
    from xsave import Event

ODD = b.Rec(b.UNKNOWN_OPTIONAL, b"odd", padding=b"\1\2\3\4\5")
HVM = b.libxc([*b.hvm(), ODD])
DEVICE_MODEL = [b.emulator(b.XENSTORE_DATA, b"a\0b\0"), b.emulator(), b.Rec(b.LIBXL_END)]


class XenSuite(FormatSuite):
    stream: ClassVar[bytes]

    def info(self) -> ImageInfo:
        return open_reader(self.stream, self.format.name).info

    def events(self) -> Sequence[Event]:
        return read(self.stream, self.format.name)


class TestXl(XenSuite):
    format: ClassVar[Format] = BY_NAME["xl"]
    stream = b.xl(b.libxl(HVM, DEVICE_MODEL))
    images = (
        stream,
        b.xl(b.libxl(b.libxc(b.pv())), b.xl_header(b"")),
        b.xl(b.libxl(b.libxc(b.hvm(2), version=2)), b.xl_header(optional_flags=9)),
        b.xl(b.nested_remus(b.hvm(), [b.hvm_round()], [b.emulator()])),
    )


class TestLibxl(XenSuite):
    format: ClassVar[Format] = BY_NAME["libxl"]
    stream = b.libxl(HVM, DEVICE_MODEL)
    images = (
        stream,
        b.libxl(b.libxc(b.pv()), header=b.libxl_header(options=2)),
        b.nested_remus(b.pv(), [], []),
        b.nested_remus(b.hvm(), [b.hvm_round()] * 2, [b.emulator()], end=True),
    )


class TestLibxc(XenSuite):
    format: ClassVar[Format] = BY_NAME["libxc"]
    stream = b.libxc([*b.pv(), ODD])
    images = (
        stream,
        b.libxc(b.pv(2), version=2),
        b.libxc([b.Rec(b.STATIC_DATA_END), *b.hvm(2)], version=2),
        b.libxc([*b.policies(), *b.hvm(2)], version=2),
        b.bare_remus(b.hvm(), [b.hvm_round()]),
        b.bare_remus(b.pv(), [b.pv_round()] * 2, end=True),
    )


def test_each_beginning_is_claimed_by_one_format() -> None:
    beginnings = {"xl": TestXl.stream, "libxl": TestLibxl.stream, "libxc": TestLibxc.stream}
    for name, stream in beginnings.items():
        assert [n for n, format_ in BY_NAME.items() if format_.sniff(stream[:4096])] == [name]


def test_a_legacy_stream_is_claimed_by_none() -> None:
    legacy = b"\xff" * 8 + bytes(100)
    assert not any(format_.sniff(legacy) for format_ in BY_NAME.values())


@pytest.mark.parametrize("name", ["libxc-v2", "libxc-v3"])
def test_the_versions_are_for_writing_only(name: str) -> None:
    assert BY_NAME[name].writable
    assert not BY_NAME[name].readable
    assert not BY_NAME[name].sniff(TestLibxc.stream)


def test_a_legacy_format_asked_for_by_name_is_unknown(manager: xsave.PluginManager) -> None:
    with pytest.raises(UnknownNameError, match="libxc"):
        xsave.run("-", "-", to="libxc-v1", manager=manager)
