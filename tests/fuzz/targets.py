"""What each fuzz target does with its bytes. Needs no fuzzer: the tests call it too.

An input is read in every mode; what reads whole is written again, which must give the same
bytes (Xen's formats) or the same events (native), and is shown to the whole pipeline. Errors
of xsave are answers; anything else that is raised is a find.

The native target looks at each input twice: as it is, and with checksums switched off, since
no fuzzer guesses a sum, and behind the sums is where the work is done. Its corpus is made
so too (``make_corpus.py``).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve

import xsave
from tests.robustness.images import base_pieces, native
from xsave.link.frame import (
    ACK_BODY,
    FRAME_COST,
    HEAD,
    NUMBERED,
    Kind,
    decode_head,
    decode_message,
)
from xsave.link.incoming import Incoming
from xsave.link.link import refusal_text
from xsave.link.opening import Fields
from xsave.link.options import WINDOW_MIN
from xsave.link.outgoing import MESSAGE_WINDOW, Outgoing, Received
from xsave.negotiation import Fields as MessageFields
from xsave.negotiation import host_as_data, host_from_data, offer_as_data, offer_from_data
from xsave.pipeline.inspect import Describer
from xsave.pipeline.talk import differing_counts, info_from_data, read_answer, read_hello
from xsave.testing import MemoryFile, MemoryPipe, MemorySink, MemorySource
from xsave_plugins.native import spec

FORMATS = ("xl", "libxl", "libxc", "xapi", "libvirt", "native")
CORES = ("vmcore", "xen-core")
NAMES = (*FORMATS, *CORES, "legacy", "qemu", "link", "salvage", "talk")
PFNS_MAX = 1 << 14  # written in memory: a pfn has its place in a vmcore
LEGACY = ("legacy", "xl-legacy", "xl-migrate-legacy", "xend", "xapi-legacy", "libvirt-legacy")
QEMU = ("qemu", "qemu-record")
CORPUS = Path(__file__).parent / "corpus"

Target = Callable[[bytes], None]


class Finder:
    """Runs targets with one manager."""

    def __init__(self) -> None:
        self.manager = xsave.build_manager()
        self._workers = xsave.Workers(1)
        self._base: bytes | None = None  # for images that were written against one

    def target(self, name: str) -> Target:
        own = {
            "native": self.native, "legacy": self.legacy, "qemu": self.qemu,
            "salvage": self.salvage, "link": hear, "talk": understand,
        }  # fmt: skip
        if name in own:
            return own[name]
        if name in CORES:
            return lambda data: self.core(name, data)
        return lambda data: self.xen(name, data)

    def recognises(self, name: str, data: bytes) -> bool:
        """Whether an input of the corpus is of a format that this target is about."""
        if name in ("link", "talk"):
            return True
        names = {"legacy": LEGACY, "qemu": QEMU, "salvage": FORMATS}.get(name, (name,))
        return any(self.manager.formats.find(one).sniff(data[:4096]) for one in names)

    def xen(self, name: str, data: bytes) -> None:
        with contextlib.suppress(xsave.XsaveError):
            self._read(name, data, xsave.PageMode.SKIP)
        try:
            written = self._rewrite(name, data, xsave.PageMode.FULL)
        except xsave.XsaveError:
            written = None
        # what is said behind an xl file in a migration is read, and no part of the file
        same = written is None or written == data or (name == "xl" and data.startswith(written))
        assert same, "an accepted stream was written differently"
        self._identify(data)
        self._pipeline(data)

    def legacy(self, data: bytes) -> None:
        """Read by every format there is for it, and never written: what it becomes can be
        read, whatever became of the rest."""
        for name in LEGACY:
            whole = {}
            for mode in (xsave.PageMode.SKIP, xsave.PageMode.CHECK, xsave.PageMode.FULL):
                with contextlib.suppress(xsave.XsaveError):
                    whole[mode] = self._read(name, data, mode)
            checked = whole.get(xsave.PageMode.CHECK)
            assert checked == whole.get(xsave.PageMode.FULL), "checking is not reading"
            assert checked in {None, whole.get(xsave.PageMode.SKIP)}
        self._identify(data)
        self._pipeline(data)

    def qemu(self, data: bytes) -> None:
        """A stream, or a record that stands alone. What is read can be written, in QEMU's own
        form, and that is a fixed point."""
        for name in QEMU:
            whole = {}
            for mode in xsave.PageMode:
                with contextlib.suppress(xsave.XsaveError):
                    whole[mode] = self._read(name, data, mode)
            assert len(whole) in {0, len(xsave.PageMode)}, "a mode reads what another refuses"
        try:
            written = self._rewrite("qemu", data, xsave.PageMode.FULL)
        except xsave.XsaveError:
            written = None
        again = written and self._rewrite("qemu", written, xsave.PageMode.FULL)
        assert again == written, "what was written is read as something else"
        self._identify(data)
        self._pipeline(data)

    def native(self, data: bytes) -> None:
        for context in (contextlib.nullcontext(), no_sums()):
            with context:
                self._base = native(base_pieces())
                for mode in xsave.PageMode:
                    with contextlib.suppress(xsave.XsaveError):
                        self._again("native", data, mode)
                with contextlib.suppress(xsave.XsaveError):
                    self._find(data)
                self._pipeline(data)

    def core(self, name: str, data: bytes) -> None:
        """Read through the index, too; what is written of it in both formats holds the same."""
        format_ = self.manager.formats.find(name)
        with contextlib.suppress(xsave.XsaveError):
            list(format_.reader(MemoryPipe(data), self._options(xsave.PageMode.FULL)))
        try:
            events = list(format_.reader(MemorySource(data), self._options(xsave.PageMode.FULL)))
        except xsave.XsaveError:
            events = None
        with contextlib.suppress(xsave.XsaveError):
            list(format_.reader(MemorySource(data), self._options(xsave.PageMode.SKIP)))
        self._index(format_, data, events)
        if events is not None and all(_highest(event) < PFNS_MAX for event in events):
            self._both_cores(events)
        self._identify(data)
        self._pipeline(data)

    def _index(self, format_: xsave.Format, data: bytes, events: Sequence[Any] | None) -> None:
        try:
            finder = format_.page_finder(MemorySource(data), self._options(xsave.PageMode.FULL))
            assert finder is not None
            pfns = finder.entries().tolist()
            found = finder.find(pfns[:64])
        except xsave.XsaveError:
            return
        if events is not None:
            there = _memory(events)
            assert pfns == sorted(there), "the index has other pages than the file"
            for pfn, (_, page) in found.items():
                assert page is not None and page.tobytes() == there[pfn]

    def _both_cores(self, events: Sequence[Any]) -> None:
        there = _memory(events)
        for name in CORES:
            file = MemoryFile()
            info = xsave.ImageInfo(name, xsave.GuestType.UNKNOWN)
            options = xsave.WriteOptions(describe=Describer(self.manager.handler_table(None)))
            format_ = self.manager.formats.find(name)
            try:
                writer = format_.writer(file, info, options)
                for event in events:
                    writer.put(event)
                writer.finish()
            except xsave.XsaveError:
                continue  # a record that is wrong in itself
            again = format_.reader(
                MemorySource(bytes(file.whole)), self._options(xsave.PageMode.FULL)
            )
            assert _memory(list(again)) == there, "what was written holds other pages"

    def salvage(self, data: bytes) -> None:
        """Whatever is wrong, what is said to be whole can be written, and is."""
        native_ = self.manager.formats.find("native")
        for context in (contextlib.nullcontext(), no_sums()):
            with context:
                self._base = native(base_pieces())
                options = self._options(xsave.PageMode.FULL)
                with contextlib.suppress(xsave.XsaveError):
                    if (reader := native_.salvage(MemorySource(data), options)) is not None:
                        self._keep(reader)
                out = io.BytesIO()
                with contextlib.suppress(xsave.XsaveError):
                    xsave.salvage(io.BytesIO(data), out, manager=self.manager)
                    xsave.inspect(io.BytesIO(out.getvalue()), manager=self.manager)

    def _keep(self, reader: xsave.SalvageReader) -> None:
        sink = MemorySink()
        format_ = self.manager.formats.find("native")
        info = evolve(reader.info, base="")
        writer = format_.writer(sink, info, xsave.WriteOptions(workers=self._workers))
        for event in reader:
            if isinstance(event, xsave.Loss):
                assert event.reason and all(first <= last for first, last in event.pfns)
            else:
                writer.put(event)
        writer.finish()
        self._read("native", sink.data, xsave.PageMode.FULL)

    def _options(self, mode: xsave.PageMode) -> xsave.ReadOptions:
        base = None if self._base is None else MemorySource(self._base)
        return xsave.ReadOptions(mode, self.manager.codecs.items(), self._workers, base)

    def _read(self, name: str, data: bytes, mode: xsave.PageMode) -> int:
        """How many events there are."""
        reader = self.manager.formats.find(name).reader(MemoryPipe(data), self._options(mode))
        return sum(1 for _event in reader)

    def _identify(self, data: bytes) -> None:
        with contextlib.suppress(xsave.XsaveError):
            xsave.identify(io.BytesIO(data), manager=self.manager)

    def _rewrite(self, name: str, data: bytes, mode: xsave.PageMode) -> bytes:
        format_ = self.manager.formats.find(name)
        reader = format_.reader(MemoryPipe(data), self._options(mode))
        sink = MemorySink()
        writer = format_.writer(sink, reader.info, xsave.WriteOptions(workers=self._workers))
        for event in reader:
            writer.put(event)
        writer.finish()
        return sink.data

    def _again(self, name: str, data: bytes, mode: xsave.PageMode) -> None:
        """What was written from what was read can be read."""
        if mode is xsave.PageMode.SKIP:
            self._read(name, data, mode)
            return
        written = self._rewrite(name, data, mode)
        try:
            self._read(name, written, xsave.PageMode.FULL)
        except xsave.XsaveError as error:
            if mode is xsave.PageMode.CARRY:
                return  # bodies that no codec unpacks are carried as they are
            raise AssertionError("what was written cannot be read") from error

    def _find(self, data: bytes) -> None:
        format_ = self.manager.formats.find("native")
        finder = format_.page_finder(MemorySource(data), self._options(xsave.PageMode.FULL))
        assert finder is not None
        finder.find(range(64))

    def _pipeline(self, data: bytes) -> None:
        """Handlers, checks, descriptions, and both ways between Xen's formats and native."""
        with contextlib.suppress(xsave.XsaveError):
            xsave.inspect(io.BytesIO(data), manager=self.manager)
        for to in ("native", "xl", "libxc-v2", "xapi"):
            out = io.BytesIO()
            try:
                # With a codec asked for, bodies are unpacked; what is carried as it is may
                # turn out later to be what no codec unpacks, with the right sum over it.
                codec = "none" if to == "native" else None
                xsave.run(
                    io.BytesIO(data), out, to=to, codec=codec, workers=1, manager=self.manager,
                    allow_loss=["xen.tmem"],
                )  # fmt: skip
            except xsave.XsaveError:
                continue
            xsave.verify(io.BytesIO(out.getvalue()), workers=1, manager=self.manager)


def _highest(event: Any) -> int:
    """The highest pfn of it; of what is no batch -1."""
    if not isinstance(event, xsave.PageBatch):
        return -1
    pfns = event.entry_list.pfn_range()
    return -1 if pfns is None else pfns[1]


def _memory(events: Sequence[Any]) -> dict[int, bytes]:
    found = {}
    for event in events:
        if isinstance(event, xsave.PageBatch):
            assert event.pages is not None
            found.update(zip(event.pfns.tolist(), map(bytes, event.pages), strict=True))
    return found


def understand(data: bytes) -> None:
    """One message of a migration, as every kind of message there is: it is understood, or is
    wrong in a field that has a name; what a host and a guest say is written again the same."""
    try:
        message = decode_message(data, "fuzz")
    except xsave.LinkError:
        return
    for read in READERS:
        with contextlib.suppress(xsave.FieldError):
            read(message)


def _read_error(message: dict[str, Any]) -> None:
    fields = MessageFields(message, "message")
    fields.number("code")
    fields.text("reason")


def _read_runs(message: dict[str, Any]) -> None:
    fields = MessageFields(message, "message")
    assert fields.seconds("journal_s") >= 0
    assert fields.seconds("start_s") >= 0


def _read_hello(message: dict[str, Any]) -> None:
    *_, offer = read_hello(MessageFields(message, "message"))
    assert offer_from_data(offer_as_data(offer)) == offer


def _read_answer(message: dict[str, Any]) -> None:
    _, host, _ = read_answer(MessageFields(message, "message"))
    assert host_from_data(host_as_data(host)) == host


def _read_counts(message: dict[str, Any]) -> None:
    ours = {"records": {"a": 1}, "nr_pages": 1, "nr_pfns": 2, "stream_bytes": 3}
    differing_counts(ours, message.get("counts"))


READERS: tuple[Callable[[dict[str, Any]], object], ...] = (
    _read_error, _read_runs, _read_hello, _read_answer, _read_counts,
    lambda message: info_from_data(message.get("info")),
    lambda message: MessageFields(message, "message").octets("id", 16),
)  # fmt: skip


def hear(data: bytes) -> None:
    """What the other end of a link says, from its first hello on: each frame is understood, or
    ends the link; what is held stays within the window."""
    with contextlib.suppress(xsave.LinkError):
        _hear(memoryview(data))


def _hear(data: memoryview) -> None:
    incoming, outgoing = Incoming("fuzz", WINDOW_MIN), Outgoing("fuzz", WINDOW_MIN, WINDOW_MIN)
    incoming.new_channels(2)
    outgoing.take(memoryview(bytes(1000)))
    outgoing.next_unsent()
    number = 0
    while len(data) >= HEAD.size:
        head, data = decode_head(data[: HEAD.size], "fuzz"), data[HEAD.size :]
        body, data = data[: head.length], data[head.length :]
        if len(body) < head.length:
            return
        number += 1
        if head.kind in NUMBERED:
            room = incoming.begin(number % 2, head)
            room[:] = body
            message = decode_message(bytes(body), "fuzz") if head.kind is Kind.MESSAGE else room
            incoming.complete(head.number, message)
            if number % 3 == 0 and incoming.messages:
                incoming.next_message()
            incoming.read_stream(memoryview(bytearray(100)))
        elif head.kind is Kind.ACK:
            outgoing.acknowledge(Received(head.number, *ACK_BODY.unpack(body)))
        elif head.kind is Kind.HELLO:
            _hear_hello(bytes(body))
        else:
            assert refusal_text(body).isprintable()
        assert sum(incoming._held.values()) <= WINDOW_MIN + MESSAGE_WINDOW + FRAME_COST


def _hear_hello(body: bytes) -> None:
    fields = Fields(decode_message(body, "fuzz", "hello"), "fuzz")
    for read in (fields.proposal, fields.answer, fields.received):
        with contextlib.suppress(xsave.PeerError):
            read()


@contextlib.contextmanager
def no_sums() -> Iterator[None]:
    """Checksums of native images are all zero, for writing and for reading."""
    real = spec.head_sum, spec.checksum
    spec.head_sum, spec.checksum = _no_head_sum, _no_checksum
    try:
        yield
    finally:
        spec.head_sum, spec.checksum = real


def _no_head_sum(*_parts: xsave.Buffer) -> int:
    return 0


def _no_checksum(name: str, data: xsave.Buffer) -> bytes:
    return bytes(spec.CHECKSUMS[name])


def corpus(name: str, folder: Path = CORPUS) -> list[bytes]:
    """The committed inputs of a target."""
    return [path.read_bytes() for path in sorted((folder / name).iterdir())]


def prepare(name: str) -> Target:
    """A target whose modules are all imported, so that they can be instrumented."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    logging.disable()
    target = Finder().target(name)
    for data in corpus(name):
        target(data)
    return target
