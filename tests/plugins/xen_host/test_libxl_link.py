"""The line to libxl, byte for byte: what arrives was written here from libxl's own list."""

from __future__ import annotations

import struct

import pytest

from xsave import XsaveError
from xsave_plugins.xen_host.libxl_link import ERROR, LibxlGoneError, LibxlLink


class Libxl:
    """:param answers: what it will say, one after another."""

    def __init__(self, *answers: int) -> None:
        self.said = b"".join(struct.pack("=i", answer) for answer in answers)
        self.heard = b""

    def link(self, offered: int) -> LibxlLink:
        return LibxlLink(offered, self.hear, self.say)

    def hear(self, data: bytes) -> None:
        self.heard += data

    def say(self, size: int) -> bytes:
        piece, self.said = self.said[: min(size, 3)], self.said[min(size, 3) :]  # in pieces
        return piece


SAVE, RESTORE = 136, 768  # as libxl of Xen 4.17 gives them


def test_a_log_message_has_level_errno_context_and_text() -> None:
    libxl = Libxl()
    libxl.link(SAVE).log(ERROR, "no room")
    body = (
        b"\1\0" + b"\x08\0\0\0" + b"\xff\xff\xff\xff" + b"\6\0\0\0xsave\0" + b"\x08\0\0\0no room\0"
    )
    assert libxl.heard == struct.pack("=H", len(body)) + body


def test_progress_has_two_numbers_of_64_bits() -> None:
    libxl = Libxl()
    libxl.link(SAVE).progress("saving", 5, 1 << 40)
    body = b"\2\0\6\0\0\0xsave\0\7\0\0\0saving\0" + struct.pack("=QQ", 5, 1 << 40)
    assert libxl.heard == struct.pack("=H", len(body)) + body


def test_a_suspend_is_asked_and_answered() -> None:
    libxl = Libxl(1)
    libxl.link(SAVE).suspend()
    assert libxl.heard == b"\2\0\3\0"


def test_a_suspend_that_failed_is_told() -> None:
    with pytest.raises(XsaveError, match="libxl could not suspend the guest"):
        Libxl(0).link(SAVE).suspend()


def test_the_device_model_is_told_to_log() -> None:
    libxl = Libxl(0)
    libxl.link(SAVE).switch_qemu_logdirty(7, True)
    assert libxl.heard == b"\x0a\0\7\0" + struct.pack("=II", 7, 1)
    with pytest.raises(XsaveError, match="make the device model end to log"):
        Libxl(-1).link(SAVE).switch_qemu_logdirty(7, False)


def test_who_does_not_offer_it_has_no_device_model() -> None:
    libxl = Libxl()
    libxl.link(1 << 3).switch_qemu_logdirty(7, True)
    assert libxl.heard == b""


def test_static_data_done_says_what_is_missing() -> None:
    libxl = Libxl(0)
    libxl.link(RESTORE).static_data_done(3)
    assert libxl.heard == b"\6\0\x08\0\3\0\0\0"
    with pytest.raises(XsaveError, match="processor policies"):
        Libxl(-3).link(RESTORE).static_data_done(0)


def test_results_and_the_end() -> None:
    libxl = Libxl(0)
    link = libxl.link(RESTORE)
    link.restore_results(0x1234, 0x5678)
    link.complete(-1, 5)
    assert libxl.heard == (
        b"\x12\0\x09\0" + struct.pack("=QQ", 0x1234, 0x5678)
        + b"\x0a\0\x0a\0" + struct.pack("=ii", -1, 5)
    )  # fmt: skip


def test_what_is_not_offered_is_not_sent() -> None:
    libxl = Libxl(1)
    with pytest.raises(XsaveError, match="libxl does not take message 3"):
        libxl.link(RESTORE).suspend()
    assert libxl.heard == b""


def test_a_long_text_is_cut_and_a_nul_does_no_harm() -> None:
    libxl = Libxl()
    libxl.link(SAVE).log(ERROR, "a\0b" + "x" * 100_000)
    assert struct.unpack_from("=H", libxl.heard)[0] == len(libxl.heard) - 2
    assert b"a bxxx" in libxl.heard
    assert libxl.heard.count(b"\0", 18) >= 1


def test_a_line_that_is_cut_is_told() -> None:
    with pytest.raises(LibxlGoneError, match="libxl has closed the line"):
        Libxl().link(SAVE).suspend()


def test_a_line_that_breaks_is_told() -> None:
    def broken(_data: bytes) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(LibxlGoneError, match="Broken pipe"):
        LibxlLink(SAVE, broken, lambda _size: b"").suspend()
