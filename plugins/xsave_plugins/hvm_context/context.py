"""HVM_CONTEXT: everything Xen keeps of an HVM guest beside its memory and parameters.

The body is a list of save records, each a descriptor (typecode u16, instance u16, length
u32) and ``length`` bytes, from HEADER to END; see docs/formats/hvm.md. Whatever follows
END is of no meaning, and is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xsave import FieldError, GuestType, Highlight, Phase, RecordHandler, Redaction, frozen

from .save_record import DESCRIPTOR, Per, SaveRecord, SaveType, fields_to_json

if TYPE_CHECKING:
    from xsave import Buffer, Domain, HvmFacet


@frozen
class HvmContext:
    """:ivar save_records: in the order of the body, HEADER first and END last.
    :ivar trailing: bytes after END, which Xen does not look at.
    """

    save_records: tuple[SaveRecord, ...]
    trailing: bytes = b""

    def find(self, name: str, instance: int = 0) -> SaveRecord | None:
        """The save record of that type and instance; a context has at most one."""
        for one in self.save_records:
            if one.name == name and one.instance == instance:
                return one
        return None


class HvmContextHandler(RecordHandler[HvmContext]):
    """``xen.hvm.context``: the list of save records."""

    name = "xen.hvm.context"
    summary = "vcpus and devices that Xen emulates, for HVM and PVH guests"
    redaction = Redaction.CLEANED
    phase = Phase.END_OF_CHECKPOINT
    facet = "hvm"
    guest_types = frozenset({GuestType.X86_HVM})

    def prepare(self) -> None:
        from attrs import fields

        from . import load_rules, platform, save_types  # noqa: F401  # see the package's text

        fields(platform.LapicRegs)  # makes its methods

    def decode(self, body: memoryview) -> HvmContext:
        if not len(body):
            raise FieldError(field="body", expected="save records", got="0 bytes")
        found: list[SaveRecord] = []
        taken: set[tuple[int, int]] = set()
        offset = 0
        while not found or found[-1].name != "END":
            one = _decode_save_record(body, offset, is_first=not found)
            if (one.type.typecode, one.instance) in taken:
                raise FieldError(
                    field=_where(one.type, one.instance, offset),
                    expected=f"one for each {one.type.per.what}",
                    got="a second one",
                )
            taken.add((one.type.typecode, one.instance))
            found.append(one)
            offset += DESCRIPTOR.size + one.length
        return HvmContext(tuple(found), bytes(body[offset:]))

    def encode(self, state: HvmContext) -> Sequence[Buffer]:
        return (*(one.encode() for one in state.save_records), state.trailing)

    def collect(self, domain: Domain) -> Iterator[HvmContext]:
        hvm: HvmFacet | None = domain.facet("hvm")
        if hvm is not None:
            yield self.decode(memoryview(hvm.context()))

    def apply(self, domain: Domain, state: HvmContext) -> None:
        hvm: HvmFacet = domain.need_facet("hvm")
        hvm.set_context(b"".join(self.encode(state)))

    def highlights(self, state: HvmContext, seen: Mapping[str, Any]) -> Iterator[Highlight]:
        from .cpu import Cpu
        from .page_tables import root_of

        devices: dict[str, int] = {}
        for one in state.save_records:
            if isinstance(one.fields, Cpu):
                root = root_of(one.fields)
                text = f"at {one.fields.rip:#x}, " + (
                    "without paging"
                    if root is None
                    else f"{root.levels} levels of page tables from pfn {root.pfn:#x}"
                )
                yield Highlight("vcpus", f"vcpu {one.instance}", text)
            elif one.type.per is not Per.VCPU and one.name not in ("HEADER", "END"):
                devices[one.name] = devices.get(one.name, 0) + 1
        for name, count in devices.items():
            times = "" if count == 1 else f", {count} of them"
            yield Highlight("devices", name, f"emulated by Xen{times}")

    def redact(self, state: HvmContext, seen: Mapping[str, Any]) -> HvmContext:
        from .redaction import clean

        return HvmContext(tuple(clean(one) for one in state.save_records))

    def describe(self, state: HvmContext, seen: Mapping[str, Any]) -> Any:
        shown = []
        offset = 0
        for one in state.save_records:
            shown.append(
                {
                    "type": one.name,
                    "typecode": one.type.typecode,
                    "instance": one.instance,
                    "offset": offset,
                    "length": one.length,
                    "fields": fields_to_json(one.fields),
                }
            )
            offset += DESCRIPTOR.size + one.length
        return {"save_records": shown, "trailing": state.trailing.hex()}


def _decode_save_record(body: memoryview, offset: int, *, is_first: bool) -> SaveRecord:
    """The one at ``offset``.

    :raises FieldError: with its name, instance and offset in the body.
    """
    room = len(body) - offset - DESCRIPTOR.size
    if room < 0:
        raise FieldError(
            field=f"save record at body offset {offset:#x}",
            expected=f"a descriptor of {DESCRIPTOR.size} bytes (END comes last)",
            got=f"{len(body) - offset} bytes",
        )
    typecode, instance, length = DESCRIPTOR.unpack_from(body, offset)
    kind = _find_type(typecode, instance, offset, is_first=is_first)
    where = _where(kind, instance, offset)
    if instance >= kind.per.end:
        raise FieldError(
            field=f"{where}: instance",
            expected=f"below {kind.per.end}: a {kind.per.what}" if kind.per.end > 1 else "0",
            got=str(instance),
        )
    if length > room:
        raise FieldError(field=f"{where}: payload", expected=f"{length} bytes", got=f"{room} bytes")
    start = offset + DESCRIPTOR.size
    try:
        fields = kind.form.decode(body[start : start + length])
    except FieldError as error:
        raise FieldError(
            field=f"{where}: {error.field}", expected=error.expected, got=error.got
        ) from None
    return SaveRecord(kind, instance, length, fields)


def _find_type(typecode: int, instance: int, offset: int, *, is_first: bool) -> SaveType:
    from .save_types import HEADER, SAVE_TYPES, VENDOR_TYPECODES  # see the package's text

    where = f"save record at body offset {offset:#x}, instance {instance}: typecode"
    kind = SAVE_TYPES.get(typecode)
    got = f"{typecode} ({kind.name})" if kind is not None else str(typecode)
    if is_first:
        if kind is None or typecode != HEADER:
            raise FieldError(field=where, expected=f"{HEADER} (HEADER), which comes first", got=got)
        return kind
    if kind is None:
        if typecode in VENDOR_TYPECODES:
            got += ", reserved for one vendor's Xen"
        raise FieldError(field=where, expected=f"0 to {max(SAVE_TYPES)}", got=got)
    return kind


def _where(kind: SaveType, instance: int, offset: int) -> str:
    return f"save record {kind.name}, instance {instance}, at body offset {offset:#x}"
