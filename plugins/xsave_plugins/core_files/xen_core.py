"""Xen's own core format: what its sections hold.

Layout: Xen's ``docs/misc/dump-core-format.txt`` (format version 0.1), ``xg_core.h``, and for the
contexts of vcpus ``public/arch-x86/xen.h``. Numbers and structs, and nothing else.
"""

from __future__ import annotations

from xsave import FieldError, Layout, layout, raw, u64

from . import elf

SHSTRTAB, NOTE, PRSTATUS, SHARED_INFO, PAGES, P2M, PFN = (
    ".shstrtab", ".note.Xen", ".xen_prstatus", ".xen_shared_info", ".xen_pages", ".xen_p2m",
    ".xen_pfn",
)  # fmt: skip
NOTE_NAME = b"Xen"
NONE, HEADER, XEN_VERSION, FORMAT_VERSION = range(0x2000000, 0x2000004)
FORMAT_0_1 = 1
MAGIC_PV, MAGIC_HVM = 0xF00FEBED, 0xF00FEBEE
GUESTS = {MAGIC_PV: "pv", MAGIC_HVM: "hvm"}

CONTEXT_BYTES = 5168  # an entry of .xen_prstatus, of which a 32-bit guest uses the first 2800
SHARED_INFO_BYTES = 4096
VCPUS_MAX = 8192
NO_FRAME = (1 << 64) - 1  # in every field of a slot that Xen could not fill


@layout
class Header(Layout):
    magic: int = u64()
    nr_vcpus: int = u64()
    nr_pages: int = u64()
    page_size: int = u64()


@layout
class Version(Layout):
    """Of the hypervisor; texts end with a NUL."""

    major: int = u64()
    minor: int = u64()
    extra: bytes = raw(16)
    compiler: bytes = raw(64)
    compile_by: bytes = raw(16)
    compile_domain: bytes = raw(32)
    compile_date: bytes = raw(32)
    capabilities: bytes = raw(1024)
    changeset: bytes = raw(64)
    virt_start: int = u64()
    page_size: int = u64()


@layout
class FormatVersion(Layout):
    version: int = u64()


TEXTS = (
    "extra", "compiler", "compile_by", "compile_domain", "compile_date", "capabilities",
    "changeset",
)  # fmt: skip
_NOTES: tuple[tuple[int, type[Layout] | None], ...] = (
    (NONE, None), (HEADER, Header), (XEN_VERSION, Version), (FORMAT_VERSION, FormatVersion),
)  # fmt: skip
_NOTE_HEAD = elf.NoteHeader.SIZE + len(NOTE_NAME) + 1
NOTES_BYTES = sum(_NOTE_HEAD + (kind.SIZE if kind else 0) for _, kind in _NOTES)


def encode_notes(header: Header, version: Version) -> bytes:
    """:returns: 1384 bytes."""
    descs = (b"", header.encode(), version.encode(), FormatVersion(FORMAT_0_1).encode())
    return b"".join(
        elf.note(NOTE_NAME, number, desc) for (number, _), desc in zip(_NOTES, descs, strict=True)
    )


def decode_notes(body: memoryview) -> tuple[Header, Version]:
    """:raises FieldError: they are not those four."""
    if len(body) != NOTES_BYTES:
        raise FieldError(field=NOTE, expected=f"{NOTES_BYTES} bytes", got=f"{len(body)} bytes")
    at, found = 0, []
    for number, kind in _NOTES:
        size = kind.SIZE if kind else 0
        head = elf.note(NOTE_NAME, number, bytes(size))[:_NOTE_HEAD]
        if (got := bytes(body[at : at + _NOTE_HEAD])) != head:
            raise FieldError(field=f"{NOTE}: note at {at:#x}", expected=head.hex(), got=got.hex())
        if kind is not None:
            found.append(kind.decode(body[at + _NOTE_HEAD : at + _NOTE_HEAD + size]))
        at += _NOTE_HEAD + size
    header, version, format_version = found
    assert isinstance(header, Header) and isinstance(version, Version)
    assert isinstance(format_version, FormatVersion)
    if format_version.version != FORMAT_0_1:
        raise FieldError(
            field="format version", expected=str(FORMAT_0_1), got=str(format_version.version)
        )
    if header.page_size != elf.PAGE_SIZE:
        raise FieldError(field="page size", expected=str(elf.PAGE_SIZE), got=str(header.page_size))
    if header.magic not in GUESTS:
        expected = " or ".join(f"{magic:#x}" for magic in GUESTS)
        raise FieldError(field="magic", expected=expected, got=f"{header.magic:#x}")
    return header, version
