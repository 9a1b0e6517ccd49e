"""For plugin authors: conformance suites to subclass, and inputs and outputs in memory.

Subclass a suite, name what is under test, and pytest finds what the contract promises:

    from xsave.testing import HandlerSuite

    class TestMyRecord(HandlerSuite):
        handler = MyRecordHandler()
        bodies = [b"..."]

The suites need pytest and hypothesis; the ``Memory`` classes need neither. Hypothesis
strategies are in :mod:`xsave.testing.strategies`, and two fixtures, ``make_manager``
and ``xsave_manager``, are there wherever xsave is installed. See docs/plugins.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "backend_suite": ("BackendSuite",),
    "codec_suite": ("CodecSuite",),
    "format_suite": ("FormatSuite", "assert_same_events"),
    "handler_suite": ("HandlerSuite", "MemoryHandlerSuite"),
    "links": ("BACK", "OUT", "MemoryLinks", "MemoryNetwork", "memory_links"),
    "memory": ("MemoryFile", "MemoryPipe", "MemorySink", "MemorySource"),
    "transport_suite": ("TransportSuite",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

# Once more in full, since type checkers only understand it so; a test compares them.
__all__ = [
    "BACK", "OUT", "BackendSuite", "CodecSuite", "FormatSuite", "HandlerSuite",
    "MemoryFile", "MemoryHandlerSuite", "MemoryLinks", "MemoryNetwork", "MemoryPipe",
    "MemorySink", "MemorySource", "TransportSuite", "assert_same_events", "memory_links",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    try:
        home = _HOME_OF[name]
    except KeyError:
        raise AttributeError(f"module 'xsave.testing' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


if TYPE_CHECKING:
    from .backend_suite import BackendSuite
    from .codec_suite import CodecSuite
    from .format_suite import FormatSuite, assert_same_events
    from .handler_suite import HandlerSuite, MemoryHandlerSuite
    from .links import BACK, OUT, MemoryLinks, MemoryNetwork, memory_links
    from .memory import MemoryFile, MemoryPipe, MemorySink, MemorySource
    from .transport_suite import TransportSuite
