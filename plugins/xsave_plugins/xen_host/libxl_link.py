"""The line between libxl and its save helper: messages one way, answers the other.

A message is its length (u16), its number (u16) and its fields, packed without alignment in the
machine's byte order; an answer is one i32. Numbers as of Xen 4.14. Source: Xen's
libxl_save_msgs_gen.pl, xentoollog.h; tried with ``xl`` of Xen 4.17.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from xsave import XsaveError

(LOG, PROGRESS, SUSPEND, POSTCOPY, CHECKPOINT, WAIT_CHECKPOINT, SWITCH_QEMU_LOGDIRTY,
 STATIC_DATA_DONE, RESTORE_RESULTS, COMPLETE) = range(1, 11)  # fmt: skip

# xentoollog's levels.
DEBUG, DETAIL, INFO, WARN, ERROR = 1, 3, 5, 7, 8

CONTEXT = "xsave"
NO_ERRNO = -1  # of a log message that is about none
MAX_TEXT = 4000  # bytes: a message's length has 16 bits
ANSWER = struct.Struct("=i")


class LibxlGoneError(XsaveError):
    """Nobody is at the other end of the line."""


class LibxlLink:
    """:param offered: bit N for each message N that libxl would answer; the others must not
    be sent.
    :param write: all of the bytes; :param read: up to so many, b"" at the end.
    """

    def __init__(
        self, offered: int, write: Callable[[bytes], object], read: Callable[[int], bytes]
    ) -> None:
        self._offered = offered
        self._write = write
        self._read = read

    @classmethod
    def over(cls, offered: int, in_fd: int, out_fd: int) -> LibxlLink:
        def write(data: bytes) -> None:
            while data:
                data = data[os.write(out_fd, data) :]

        return cls(offered, write, lambda size: os.read(in_fd, size))

    def offers(self, number: int) -> bool:
        return bool(self._offered >> number & 1)

    # -- messages without an answer --------------------------------------------------------

    def log(self, level: int, text: str) -> None:
        fields = struct.pack("=II", level, NO_ERRNO & 0xFFFFFFFF)
        self._send(LOG, fields + _string(CONTEXT) + _string(text))

    def progress(self, doing: str, done: int, total: int) -> None:
        fields = _string(CONTEXT) + _string(doing)
        self._send(PROGRESS, fields + struct.pack("=QQ", done, total))

    def restore_results(self, store_gfn: int, console_gfn: int) -> None:
        self._send(RESTORE_RESULTS, struct.pack("=QQ", store_gfn, console_gfn))

    # -- questions -----------------------------------------------------------------------

    def suspend(self) -> None:
        """Returns when the guest has stopped.

        :raises XsaveError: it did not.
        """
        if not self._ask(SUSPEND, b""):
            raise XsaveError("libxl could not suspend the guest")

    def switch_qemu_logdirty(self, domid: int, on: bool) -> None:
        """Where there is nobody to tell, there is no device model either."""
        if self.offers(SWITCH_QEMU_LOGDIRTY) and self._ask(
            SWITCH_QEMU_LOGDIRTY, struct.pack("=II", domid, on)
        ):
            word = "begin" if on else "end"
            raise XsaveError(f"libxl could not make the device model {word} to log what it writes")

    def static_data_done(self, missing: int) -> None:
        """:param missing: bit 0 for the CPUID policy, bit 1 for that of MSRs: libxl makes
        those up."""
        if self._ask(STATIC_DATA_DONE, struct.pack("=I", missing)):
            raise XsaveError("libxl could not give the guest its processor policies")

    def complete(self, result: int, number: int) -> None:
        """The last message: 0, or -1 and an errno."""
        self._send(COMPLETE, struct.pack("=ii", result, number))
        self._answer()

    def _ask(self, number: int, fields: bytes) -> int:
        if not self.offers(number):
            raise XsaveError(f"libxl does not take message {number}")
        self._send(number, fields)
        return self._answer()

    def _answer(self) -> int:
        data = b""
        while len(data) < ANSWER.size:
            try:
                piece = self._read(ANSWER.size - len(data))
            except OSError as error:
                raise LibxlGoneError(f"libxl: {error.strerror}") from None
            if not piece:
                raise LibxlGoneError("libxl has closed the line")
            data += piece
        found: int = ANSWER.unpack(data)[0]
        return found

    def _send(self, number: int, fields: bytes) -> None:
        body = struct.pack("=H", number) + fields
        try:
            self._write(struct.pack("=H", len(body)) + body)
        except OSError as error:
            raise LibxlGoneError(f"libxl: {error.strerror}") from None


def _string(text: str) -> bytes:
    """Its length with the NUL, itself, the NUL."""
    data = text.replace("\0", " ").encode("utf-8", "replace")[:MAX_TEXT] + b"\0"
    return struct.pack("=I", len(data)) + data
