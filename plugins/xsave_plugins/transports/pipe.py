"""``pipe:``: what this process was started with, standard input and output or others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsave import Transport, UsageError

if TYPE_CHECKING:
    from .descriptors import DescriptorChannel, OneListener

NUMBERS = re.compile(r"(\d{1,9})(?:,(\d{1,9}))?")


class PipeTransport(Transport):
    """There is one channel, and it does not come back."""

    name = "pipe"
    summary = "inherited descriptors: pipe: (standard input and output), pipe:IN,OUT, pipe:BOTH"
    reconnects = False

    def connect(self, address: str, timeout_s: float) -> DescriptorChannel:
        from .descriptors import DescriptorChannel

        return DescriptorChannel(*_numbers(address), peer=f"pipe:{address}")

    def listen(self, address: str) -> OneListener:
        from .descriptors import OneListener

        return OneListener(address, self.connect(address, 0))


def _numbers(address: str) -> tuple[int, int]:
    """To read from, and to write to."""
    if address in {"", "-"}:
        return 0, 1
    if (found := NUMBERS.fullmatch(address)) is None:
        raise UsageError(f"pipe:{address}: expected pipe:, pipe:IN,OUT or pipe:BOTH, as numbers")
    return int(found[1]), int(found[2] or found[1])
