"""The native format passes the suite that any format's author runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hypothesis import strategies as st

import xsave
from xsave.testing import FormatSuite
from xsave.testing.strategies import page_batches, records
from xsave_plugins.codecs.brotli import BrotliCodec
from xsave_plugins.codecs.lz4 import Lz4Codec
from xsave_plugins.codecs.zstd import ZstdCodec
from xsave_plugins.native.format import NativeFormat

if TYPE_CHECKING:
    from xsave import Event

from tests.plugins.native.batches import batch, page


class TestNativeFormat(FormatSuite):
    format = NativeFormat()
    codecs = (ZstdCodec(), Lz4Codec(), BrotliCodec())
    finds_damage = True

    def info(self) -> xsave.ImageInfo:
        return xsave.ImageInfo("test", xsave.GuestType.X86_HVM, xen_version="4.17", word_size=8)

    def events(self) -> Sequence[Event]:
        optional = xsave.RecordType("test.optional", 3, mandatory=False)
        owned = xsave.RecordType("test.owned", owner=xsave.Owner("them", "theirs 1.2"))
        return [
            xsave.Record(xsave.RecordType("test.empty"), b""),
            xsave.Record(optional, b"body" * 40, padding=b"odd"),
            batch([(0, 0), (15, 1), (0, 2), (0, 3)], [page(1), page(0), page(1)]),
            batch([(15, 4), (15, 5)], []),
            batch([(0, 2), (0, 6)], [page(1), page(2)], reserved=7),
            xsave.Record(owned, bytes(100)),
        ]

    def streams(self) -> st.SearchStrategy[Sequence[Event]]:
        return st.lists(records() | page_batches(), max_size=6)
