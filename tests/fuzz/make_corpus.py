"""Make the fuzz targets' corpus: small images, from real ones and from synthetic ones.

    XSAVE_IMAGES=FOLDER python tests/fuzz/make_corpus.py

Of a real image (the bundled one, and pv1 and pvh1 of the folder named, where they are) every
record is kept, and of its memory the first pages of two batches; a PV guest's page tables
are missing then, which the checks across records refuse, and the framing not. Native images
are written with checksums switched off, see ``targets.py``. What is committed was made from
all three, saved by Xen 4.17.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xsave
    from xsave import Event

ROOT = Path(__file__).parents[2]
PAGES_KEPT = 1  # of each batch
ABSENT_KEPT = 4  # entries without a page, of each batch
BATCHES_KEPT = 2


def few(events: Iterable[Event]) -> Iterator[Event]:
    """All records, and little of the memory."""
    import numpy as np

    from xsave import PageBatch, carries_page

    nr_batches = 0
    for event in events:
        if not isinstance(event, PageBatch):
            yield event
            continue
        nr_batches += event.nr_pages > 0
        if nr_batches > BATCHES_KEPT or event.pages is None or not event.nr_pages:
            continue
        carries = carries_page(event.entries)
        with_page = np.flatnonzero(carries)[:PAGES_KEPT]
        kept = np.sort(np.concatenate((with_page, np.flatnonzero(~carries)[:ABSENT_KEPT])))
        pages = event.pages[: len(with_page)]
        yield PageBatch(event.type, event.entries[kept], pages, len(pages))


def small(path: Path, to: str, manager: xsave.PluginManager, codec: str = "none") -> bytes:
    """A real image with little memory. No handler is asked, so nothing is refused."""
    import xsave
    from xsave.pipeline.stream import open_stream
    from xsave.testing import MemorySink

    workers = xsave.Workers(1)
    opened = open_stream(path, manager, workers, pages=lambda _format: xsave.PageMode.FULL)
    sink = MemorySink()
    options = xsave.WriteOptions(manager.choose_codec(codec), manager.codecs.items(), workers)
    writer = manager.formats.find(to).writer(sink, opened.reader.info, options)
    for event in few(opened.reader):
        writer.put(event)
    writer.finish()
    opened.source.close()
    return sink.data


def images() -> dict[str, Path]:
    """The real images there are."""
    folder = Path(os.environ.get("XSAVE_IMAGES", "/nonexistent"))
    found = {"hvm": ROOT / "tests" / "data" / "hvmbios.save.zst"}
    for name, file in (("pv", "pv1.save"), ("pvh", "pvh1.save")):
        if (folder / file).exists():
            found[name] = folder / file
    return found


def small_legacy() -> Iterator[tuple[str, bytes]]:
    """One page or two in each, and all that chunks can say."""
    from tests.plugins.legacy import build as o
    from tests.plugins.xen_stream import build as b

    pages = o.batch(8, [(0, 0), (0xF, 0), (0xE, 1)], [b.page(1)])
    hvm = o.hvm_body(8, pages=pages) + o.hvm_tail()
    none = o.hvm_body(4, pages=o.batch(4, [(0xF, 3)])) + o.hvm_tail()
    yield "xl", o.BANNER + o.xl(o.hvm_head(8) + hvm + o.qemu()) + o.MESSAGES[1]
    yield "xend", o.xend(o.hvm_head(4) + none + b"QemuDeviceModelRecord" + o.QEVM, o.XEND_HVM)
    yield "xapi", o.xapi(o.hvm_head(4) + none + o.xapi_qemu())
    yield "libvirt", o.libvirt(o.hvm_head(4) + none)
    pools = [o.Pool(0, pages=[((7,), 1, b.page(7))], n_pages=2), o.Pool(3, 0)]
    chunks = o.tmem(pools, abi=0) + o.tmem_extra([(0, (7,), 1), (0, (9,), 1)])
    yield "tmem", o.hvm_head(8) + chunks + hvm
    info = o.extended_info(8, context=o.CONTEXT_32)
    context = bytes(2728) + (2 << 12).to_bytes(4, "little")  # CR3: pfn 2
    tail = bytes(4) + context.ljust(o.CONTEXT_32, b"\0") + o.extended_context() + bytes(4096)
    tables = o.batch(8, [(0xB, 2)], [bytes(4096)])
    first = pages + tables + o.vcpu_info() + o.chunk(o.ENABLE_COMPRESSION) + o.chunk(o.END)
    delta = b"\x80" + b.page(4) + b"\x01word" + b"\xff" * 8 + b"\x87"
    again = o.batch(8, [(0, 4)]) * 2 + o.chunk(o.COMPRESSED_DATA, o.words([len(delta)], 8) + delta)
    rounds = first + tail + again + o.chunk(o.VERIFY) + o.chunk(o.END) + tail
    yield "remus", o.words([7], 8) + info + o.words([0], 8) + rounds


def small_cores() -> Iterator[tuple[str, str, bytes]]:
    """A core file of each format, with vcpus and a few pages."""
    import xsave
    from tests.plugins.xen_stream import build as b
    from xsave.pipeline.inspect import Describer
    from xsave.testing import MemoryFile, MemorySource
    from xsave_plugins.core_files import vmcore_writer, xen_core_writer

    manager = xsave.build_manager()
    vmcore_writer.DATA_OFFSET = 4096  # else the corpus would be full of zeroes
    xen_core_writer.PAGES_AT = 12288
    for name, guest, data in (
        ("vmcore", "hvm", b.libxc(b.hvm())), ("xen-core", "pv", b.libxc(b.pv())),
    ):  # fmt: skip
        reader = manager.formats.find("libxc").reader(MemorySource(data), xsave.ReadOptions())
        file = MemoryFile()
        options = xsave.WriteOptions(describe=Describer(manager.handler_table(None)))
        writer = manager.formats.find(name).writer(file, reader.info, options)
        for event in few(reader):
            writer.put(event)
        writer.finish()
        yield name, guest, bytes(file.whole)


def small_salvage() -> Iterator[tuple[str, str, bytes]]:
    """Images that are cut, and that are damaged in the middle."""
    from tests.robustness.images import native, small_pieces

    whole = native(small_pieces())
    yield "salvage", "cut", whole[: len(whole) * 2 // 3]
    at = len(whole) // 2
    yield "salvage", "damaged", whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :]
    yield "salvage", "no-index", whole[:-100]


def make() -> Iterator[tuple[str, str, bytes]]:
    """Target, name, bytes."""
    import xsave
    from tests.fuzz.targets import no_sums
    from tests.plugins.xen_stream import build as b
    from tests.plugins.xen_stream import test_containers as containers
    from tests.robustness.images import (
        WITH_SHELF,
        base_pieces,
        delta_pieces,
        native,
        small_pieces,
        successor_pieces,
        with_base,
    )

    manager = xsave.build_manager()
    for name, path in images().items():
        yield "xl", name, small(path, "xl", manager)
        if name == "pvh":
            yield "libxl", name, small(path, "libxl", manager)
        if name == "pv":
            yield "libxc", name, small(path, "libxc", manager)
        with no_sums():
            codec = {"hvm": "zstd", "pv": "lz4", "pvh": "brotli:1"}[name]
            yield "native", name, small(path, "native", manager, codec)
    short = [*b.hvm()[:3], b.page_data([(0, 1), (b.XTAB, 2)], [b.page(1)]), *b.hvm_state()]
    turn = [b.emulator(b.XENSTORE_DATA, b"physmap/0/name\0vram\0"), b.emulator()]
    odd = b.Rec(b.UNKNOWN_OPTIONAL, b"odd", padding=b"\1\2\3\4\5")
    yield "xl", "synthetic", b.xl(b.libxl(b.libxc([*short, odd]), [*turn, b.Rec(b.LIBXL_END)]))
    yield "libxl", "remus", b.nested_remus(short, [b.hvm_state()], turn)
    yield "libxc", "remus", b.bare_remus(short, [b.hvm_state()], end=True)
    yield "libxc", "version2", b.libxc(short[3:], version=2)
    xapi = containers.xapi(b.libxc(short), containers.part(containers.QEMU, containers.QEVM))
    yield "xapi", "hvm", xapi
    yield "libvirt", "hvm", containers.libvirt(b.libxl(b.libxc(short), [*turn, b.Rec(b.LIBXL_END)]))
    yield from (("legacy", name, data) for name, data in small_legacy())
    with no_sums():
        yield "native", "pieces", native(small_pieces())
        yield "native", "deltas", native(delta_pieces(), WITH_SHELF)
        yield "native", "successor", native(successor_pieces(), with_base(native(base_pieces())))
    yield from of_qemu()
    yield from conversations()
    yield from migrations()
    yield from small_cores()
    yield from small_salvage()


def of_qemu() -> Iterator[tuple[str, str, bytes]]:
    """Streams with all there can be in them and few pages, and some devices of the real record of
    a guest of Xen's."""
    from tests.plugins.qemu_device import streams as q
    from xsave_plugins.qemu_device.savevm import walk

    pages = q.section(
        q.END, q.zero(0, b"pc.ram"), q.zero(4096), q.page(8192, b"two"), q.zero(0, b"rom")
    )
    yield "qemu", "small", b"".join((
        q.HEAD, b"\x07", q.configuration(q.capabilities(b"events")), b"\x08", q.command(1),
        q.blocks(), q.section(q.PART), b"\x08", q.command(11), pages, q.devices(),
    ))  # fmt: skip
    yield "qemu", "bare", b"".join((
        q.HEAD, q.blocks(footers=False), q.section(q.END, footers=False),
        q.devices(footers=False, described=False),
    ))  # fmt: skip
    record = ROOT / "tests" / "golden" / "records" / "xen.qemu.context.hvm.bin"
    blob = record.read_bytes()[8:]
    few_devices = b"".join(
        blob[one.offset : one.data_offset + one.data_size_bytes]
        for one in walk(blob).sections
        if one.name in {"timer", "PCIBUS", "serial", "ps2kbd", "piix4_pm"}
    )
    yield "qemu", "record", q.HEAD + few_devices + b"\0"
    yield "qemu", "signed", b"DeviceModelRecord0002" + (9).to_bytes(4, "little") + q.HEAD + b"\0"


def migrations() -> Iterator[tuple[str, str, bytes]]:
    """Each message that two ends of a migration say to each other."""
    from xsave import GuestOffer, HostDescription
    from xsave.link.frame import encode_message
    from xsave.negotiation import OfferedRecord, host_as_data, offer_as_data

    offer = GuestOffer(
        name="web", guest_type="x86_pv", p2m_size=2048, nr_vcpus=1, memory_bytes=1 << 23,
        records={"xen.pv.info": OfferedRecord(1, True, "pv", sure=True)},
        bodies={"xen.pv.info": (bytes(8),)},
    )  # fmt: skip
    host = HostDescription(
        xsave="0.1.0", plugins={"pv": "pv (xsave 0.1.0)"}, records={"xen.pv.info": 1},
        codecs=("zstd",), formats=("native",), backend="sim", host="b", guest_types=("x86_pv",),
        memory_free_bytes=1 << 30, facts={"tmem": {"supported": True, "codecs": []}},
    )  # fmt: skip
    info = {
        "guest_type": "x86_pv", "page_size": 4096, "xen_version": "4.17", "word_size": 8,
        "details": {"name": "web", "p2m_size": 2048},
    }  # fmt: skip
    said = {
        "hello": {"protocol": [1, 1], "purpose": "migrate", "id": bytes(16),
                  "guest": offer_as_data(offer)},
        "answer": {"protocol": 1, "host": host_as_data(host),
                   "refusals": [["memory", "too little", "add some"]],
                   "notices": [["tmem", "stays", [["xen.tmem.pool", 1], ["a", None]]]]},
        "begin": {"info": info},
        "complete": {"counts": {"records": {"a": 1}, "nr_pages": 1, "nr_pfns": 2,
                                "stream_bytes": 3}},
        "runs": {"journal_s": 0.5, "start_s": 0},
        "abandoned": {"code": 1, "reason": "no room"},
        "ask": {"id": bytes(16)},
    }  # fmt: skip
    for name, fields in said.items():
        yield "talk", name, encode_message({"kind": name, **fields})


def conversations() -> Iterator[tuple[str, str, bytes]]:
    """What one end of a link says: the opening, and a frame of each kind."""
    from xsave.link.frame import ACK_BODY, Kind, encode_head, encode_message
    from xsave.link.opening import Answer, Proposal

    def frame(kind: Kind, number: int, body: bytes = b"") -> bytes:
        return encode_head(kind, len(body), number) + body

    proposal = Proposal(bytes(16), bytes(16), 0, 0, 2, 1 << 20, True, bytes(16))
    answer = Answer(bytes(16), bytes(32), 1 << 20, bytes(16))
    message = encode_message({"text": "hello", "list": [1, -1, 0.5, None, True, b"x"], "map": {}})
    numbered = [
        frame(Kind.MESSAGE, 0, message), frame(Kind.DATA, 1, b"data"), frame(Kind.END, 2),
        frame(Kind.DATA, 3, bytes(900)), frame(Kind.MESSAGE, 4, message), frame(Kind.CLOSE, 5),
    ]  # fmt: skip
    yield "link", "connects", b"".join([
        frame(Kind.HELLO, 0, encode_message(proposal.message())),
        frame(Kind.HELLO, 2, encode_message({"proof": bytes(32), "received": [0, 0, 0]})),
        *numbered,
    ])  # fmt: skip
    yield "link", "listens", b"".join([
        frame(Kind.HELLO, 1, encode_message(answer.message())), frame(Kind.PING, 1),
        frame(Kind.ACK, 1, ACK_BODY.pack(0, 0)), frame(Kind.ACK, 1, ACK_BODY.pack(1064, 0)),
        frame(Kind.PONG, 1), frame(Kind.REFUSAL, 0, b"no room"),
    ])  # fmt: skip
    yield "link", "crossed", b"".join([numbered[1], numbered[0], numbered[2], *numbered[3:]])


def main() -> None:
    sys.path.insert(0, str(ROOT))
    os.environ["SOURCE_DATE_EPOCH"] = "0"
    from tests.fuzz.targets import CORPUS

    for target, name, data in make():
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        (CORPUS / target / f"{name}.bin").write_bytes(data)
        print(f"{target}/{name}.bin: {len(data)} bytes")


if __name__ == "__main__":
    main()
