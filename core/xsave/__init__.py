"""xsave: freeze a running virtual machine into bytes, and thaw it again.

These are the public names: all that a plugin imports (beside :mod:`xsave.testing`), and
all that an embedding program needs. Each is loaded when it is first used, so that
``import xsave`` costs a millisecond and numpy is only paid for by those who touch pages.

Using it: :func:`run`, :func:`verify`, :func:`inspect`, :func:`build_manager`.
Extending it: :class:`PluginInfo`, :data:`hookimpl` and the contract classes; see
docs/plugins.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "check": ("StreamCheck",),
    "checkpoint": ("Checkpoints",),
    "codec": ("Codec", "CodecChoice", "parse_codec"),
    "cursor": ("Cursor",),
    "domain": (
        "Backend", "DeviceModelFacet", "Domain", "DomainInfo", "Host", "HvmFacet", "PvFacet",
        "X86Facet", "X86Host", "XlFacet",
    ),
    "errors": (
        "AbsentPageError", "AuthenticityError", "BrokenOffError", "CancelledError", "DamageError",
        "DuplicateNameError", "FieldError", "FormatError", "IdentityError", "JournalError",
        "LinkClosedError", "LinkError", "LinkLostError", "LossError", "MissingPluginError",
        "OtherEndError", "OutputError", "PeerError", "PluginError", "RecordError", "RefusedError",
        "SilentPeerError", "SourceError", "StreamError", "TruncatedError", "TryAgainError",
        "UndecidedError", "UnknownNameError", "UnrecognisedError", "UsageError", "XsaveError",
    ),
    "figure": ("Figure",),
    "format": (
        "ByteSink", "ByteSource", "Event", "Format", "Loss", "PageFinder", "PageMode",
        "RandomAccess", "RandomSink", "RandomSource", "Reader", "ReadOptions", "Remark",
        "SalvageReader", "Writer", "WriteOptions",
    ),
    "handler": (
        "ALL_GUESTS", "CheckpointStream", "EmptyHandler", "FindPages", "Handler", "Highlight",
        "LayoutHandler", "MemoryHandler", "RecordHandler", "Redaction", "StateStream",
    ),
    "hookspecs": ("CONTRACT_VERSION", "PluginInfo", "hookimpl"),
    "batch": (
        "BROKEN", "L1TAB", "L2TAB", "L3TAB", "L4TAB", "NOTAB", "PAGE_SIZE", "PINNED",
        "RESERVED_TYPES", "TYPE_NAMES", "TYPES_WITH_PAGE", "XALLOC", "XTAB", "EntryList",
        "PageBatch", "RawEntries",
    ),
    "binary": (
        "Layout", "i8", "i16", "i32", "i64", "layout", "nested", "raw", "u8", "u16", "u32",
        "u64",
    ),
    "light_start": ("start_lightly",),
    "manager": ("HandlerTable", "PluginManager", "PluginStatus", "build_manager"),
    "negotiation": (
        "GuestOffer", "HostDescription", "Notice", "Refusal", "Refuse", "Stay",
    ),
    "pages": (
        "HAS_PAGE", "IS_RESERVED", "PFN_MASK", "TYPE_SHIFT", "Entries", "LatestEntries", "Pages",
        "carries_page", "count_pages", "expand_runs", "runs", "zero_rows",
    ),
    "pipeline.diff": ("DiffReport", "diff"),
    "pipeline.identify": ("Identification", "identify"),
    "pipeline.inspect": ("Inspection", "inspect", "read_pfns", "read_record"),
    "pipeline.redact": ("RedactReport", "redact"),
    "pipeline.memory": ("GuestMemory", "open_memory"),
    "pipeline.migrate": ("migrate",),
    "pipeline.preflight": ("preflight",),
    "pipeline.run": ("run",),
    "pipeline.salvage": ("SalvageReport", "salvage"),
    "pipeline.survey": ("Survey", "survey"),
    "pipeline.verify": ("VerifyReport", "verify"),
    "placed_pages": ("PlacedPages",),
    "plugin_option": ("PluginOption",),
    "policy": ("Decision", "Iteration", "PrecopyPolicy", "PrecopyStats", "Ruling"),
    "present": ("to_json",),
    "progress": ("MigrationReport", "Progress", "RecordCount", "RunReport"),
    "record": (
        "Buffer", "Closes", "GuestType", "ImageInfo", "Owner", "Phase", "Record", "RecordType",
    ),
    "sent_once": ("SentOnce",),
    "transport": ("Channel", "Listener", "Transport"),
    "value_class": ("define", "frozen"),
    "workers": ("Workers",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

# Once more in full, since type checkers only understand it so; a test compares them.
__all__ = [
    "ALL_GUESTS",
    "BROKEN",
    "CONTRACT_VERSION",
    "HAS_PAGE",
    "IS_RESERVED",
    "L1TAB",
    "L2TAB",
    "L3TAB",
    "L4TAB",
    "NOTAB",
    "PAGE_SIZE",
    "PFN_MASK",
    "PINNED",
    "RESERVED_TYPES",
    "TYPES_WITH_PAGE",
    "TYPE_NAMES",
    "TYPE_SHIFT",
    "XALLOC",
    "XTAB",
    "AbsentPageError",
    "AuthenticityError",
    "Backend",
    "BrokenOffError",
    "Buffer",
    "ByteSink",
    "ByteSource",
    "CancelledError",
    "Channel",
    "CheckpointStream",
    "Checkpoints",
    "Closes",
    "Codec",
    "CodecChoice",
    "Cursor",
    "DamageError",
    "Decision",
    "DeviceModelFacet",
    "DiffReport",
    "Domain",
    "DomainInfo",
    "DuplicateNameError",
    "EmptyHandler",
    "Entries",
    "EntryList",
    "Event",
    "FieldError",
    "Figure",
    "FindPages",
    "Format",
    "FormatError",
    "GuestMemory",
    "GuestOffer",
    "GuestType",
    "Handler",
    "HandlerTable",
    "Highlight",
    "Host",
    "HostDescription",
    "HvmFacet",
    "Identification",
    "IdentityError",
    "ImageInfo",
    "Inspection",
    "Iteration",
    "JournalError",
    "LatestEntries",
    "Layout",
    "LayoutHandler",
    "LinkClosedError",
    "LinkError",
    "LinkLostError",
    "Listener",
    "Loss",
    "LossError",
    "MemoryHandler",
    "MigrationReport",
    "MissingPluginError",
    "Notice",
    "OtherEndError",
    "OutputError",
    "Owner",
    "PageBatch",
    "PageFinder",
    "PageMode",
    "Pages",
    "PeerError",
    "Phase",
    "PlacedPages",
    "PluginError",
    "PluginInfo",
    "PluginManager",
    "PluginOption",
    "PluginStatus",
    "PrecopyPolicy",
    "PrecopyStats",
    "Progress",
    "PvFacet",
    "RandomAccess",
    "RandomSink",
    "RandomSource",
    "RawEntries",
    "ReadOptions",
    "Reader",
    "Record",
    "RecordCount",
    "RecordError",
    "RecordHandler",
    "RecordType",
    "RedactReport",
    "Redaction",
    "Refusal",
    "Refuse",
    "RefusedError",
    "Remark",
    "Ruling",
    "RunReport",
    "SalvageReader",
    "SalvageReport",
    "SentOnce",
    "SilentPeerError",
    "SourceError",
    "StateStream",
    "Stay",
    "StreamCheck",
    "StreamError",
    "Survey",
    "Transport",
    "TruncatedError",
    "TryAgainError",
    "UndecidedError",
    "UnknownNameError",
    "UnrecognisedError",
    "UsageError",
    "VerifyReport",
    "Workers",
    "WriteOptions",
    "Writer",
    "X86Facet",
    "X86Host",
    "XlFacet",
    "XsaveError",
    "build_manager",
    "carries_page",
    "count_pages",
    "define",
    "diff",
    "expand_runs",
    "frozen",
    "hookimpl",
    "i8",
    "i16",
    "i32",
    "i64",
    "identify",
    "inspect",
    "layout",
    "migrate",
    "nested",
    "open_memory",
    "parse_codec",
    "preflight",
    "raw",
    "read_pfns",
    "read_record",
    "redact",
    "run",
    "runs",
    "salvage",
    "start_lightly",
    "survey",
    "to_json",
    "u8",
    "u16",
    "u32",
    "u64",
    "verify",
    "zero_rows",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    try:
        home = _HOME_OF[name]
    except KeyError:
        raise AttributeError(f"module 'xsave' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOME_OF]


if TYPE_CHECKING:
    from .batch import (
        BROKEN,
        L1TAB,
        L2TAB,
        L3TAB,
        L4TAB,
        NOTAB,
        PAGE_SIZE,
        PINNED,
        RESERVED_TYPES,
        TYPE_NAMES,
        TYPES_WITH_PAGE,
        XALLOC,
        XTAB,
        EntryList,
        PageBatch,
        RawEntries,
    )
    from .binary import Layout, i8, i16, i32, i64, layout, nested, raw, u8, u16, u32, u64
    from .check import StreamCheck
    from .checkpoint import Checkpoints
    from .codec import Codec, CodecChoice, parse_codec
    from .cursor import Cursor
    from .domain import (
        Backend,
        DeviceModelFacet,
        Domain,
        DomainInfo,
        Host,
        HvmFacet,
        PvFacet,
        X86Facet,
        X86Host,
        XlFacet,
    )
    from .errors import (
        AbsentPageError,
        AuthenticityError,
        BrokenOffError,
        CancelledError,
        DamageError,
        DuplicateNameError,
        FieldError,
        FormatError,
        IdentityError,
        JournalError,
        LinkClosedError,
        LinkError,
        LinkLostError,
        LossError,
        MissingPluginError,
        OtherEndError,
        OutputError,
        PeerError,
        PluginError,
        RecordError,
        RefusedError,
        SilentPeerError,
        SourceError,
        StreamError,
        TruncatedError,
        TryAgainError,
        UndecidedError,
        UnknownNameError,
        UnrecognisedError,
        UsageError,
        XsaveError,
    )
    from .figure import Figure
    from .format import (
        ByteSink,
        ByteSource,
        Event,
        Format,
        Loss,
        PageFinder,
        PageMode,
        RandomAccess,
        RandomSink,
        RandomSource,
        Reader,
        ReadOptions,
        Remark,
        SalvageReader,
        WriteOptions,
        Writer,
    )
    from .handler import (
        ALL_GUESTS,
        CheckpointStream,
        EmptyHandler,
        FindPages,
        Handler,
        Highlight,
        LayoutHandler,
        MemoryHandler,
        RecordHandler,
        Redaction,
        StateStream,
    )
    from .hookspecs import CONTRACT_VERSION, PluginInfo, hookimpl
    from .light_start import start_lightly
    from .manager import HandlerTable, PluginManager, PluginStatus, build_manager
    from .negotiation import GuestOffer, HostDescription, Notice, Refusal, Refuse, Stay
    from .pages import (
        HAS_PAGE,
        IS_RESERVED,
        PFN_MASK,
        TYPE_SHIFT,
        Entries,
        LatestEntries,
        Pages,
        carries_page,
        count_pages,
        expand_runs,
        runs,
        zero_rows,
    )
    from .pipeline.diff import DiffReport, diff
    from .pipeline.identify import Identification, identify
    from .pipeline.inspect import Inspection, inspect, read_pfns, read_record
    from .pipeline.memory import GuestMemory, open_memory
    from .pipeline.migrate import migrate
    from .pipeline.preflight import preflight
    from .pipeline.redact import RedactReport, redact
    from .pipeline.run import run
    from .pipeline.salvage import SalvageReport, salvage
    from .pipeline.survey import Survey, survey
    from .pipeline.verify import VerifyReport, verify
    from .placed_pages import PlacedPages
    from .plugin_option import PluginOption
    from .policy import Decision, Iteration, PrecopyPolicy, PrecopyStats, Ruling
    from .present import to_json
    from .progress import MigrationReport, Progress, RecordCount, RunReport
    from .record import Buffer, Closes, GuestType, ImageInfo, Owner, Phase, Record, RecordType
    from .sent_once import SentOnce
    from .transport import Channel, Listener, Transport
    from .value_class import define, frozen
    from .workers import Workers
