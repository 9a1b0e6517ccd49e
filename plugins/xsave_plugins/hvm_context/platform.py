"""Save records of the platform around the processors: interrupts, timers, clock.

Sizes, offsets and the sources of both are in docs/formats/hvm.md.
"""

from __future__ import annotations

import struct
from itertools import chain
from typing import Any

from xsave import FieldError, Layout, frozen, i64, layout, nested, raw, to_json, u8, u16, u32, u64

from .save_record import Form, bits, wrong_length

HEADER_MAGIC = 0x54381286
HEADER_VERSION = 1


@layout
class End(Layout):
    """END: nothing more to say."""


@layout
class Header(Layout):
    """HEADER: who saved.

    ``changeset`` is all ones where Xen's is not a number; ``cpuid`` is leaf 1 EAX of the
    saving host; ``gtsc_khz`` 0 leaves the frequency alone.
    """

    magic: int = u32()
    version: int = u32()
    changeset: int = u64()
    cpuid: int = u32(
        bits=bits(
            stepping=(0, 4), model=(4, 4), family=(8, 4), type=(12, 2), ext_model=(16, 4),
            ext_family=(20, 8),
        )
    )  # fmt: skip
    gtsc_khz: int = u32()


class HeaderForm(Form):
    """Nothing else in the context means anything unless these two numbers are right."""

    def decode(self, payload: memoryview) -> Header:
        if len(payload) != Header.SIZE:
            raise wrong_length(str(Header.SIZE), len(payload))
        header = Header.decode(payload)
        if header.magic != HEADER_MAGIC:
            raise FieldError(field="magic", expected=f"{HEADER_MAGIC:#x}", got=f"{header.magic:#x}")
        if header.version != HEADER_VERSION:
            raise FieldError(field="version", expected=str(HEADER_VERSION), got=str(header.version))
        return header

    def encode(self, fields: Any, length: int) -> bytes:
        whole: bytes = fields.encode()
        return whole


@layout
class Pic(Layout):
    """PIC: an 8259; instance 0 is the master, 1 the slave."""

    irr: int = u8()
    imr: int = u8()
    isr: int = u8()
    irq_base: int = u8()
    init_and_priority: int = u8(bits=bits(init_state=(0, 4), priority_add=(4, 4)))
    modes: int = u8(
        bits=bits(
            readsel_isr=0, poll=1, auto_eoi=2, rotate_on_auto_eoi=3,
            special_fully_nested_mode=4, special_mask_mode=5, is_master=6,
        )
    )  # fmt: skip
    elcr: int = u8()
    int_output: int = u8()


REDIRECTION = bits(
    vector=(0, 8), delivery_mode=(8, 3), dest_mode=11, delivery_status=12, polarity=13,
    remote_irr=14, trig_mode=15, mask=16, dest_id=(56, 8),
)  # fmt: skip


@layout
class Ioapic(Layout):
    """IOAPIC."""

    base_address: int = u64()
    ioregsel: int = u32()
    id: int = u32()
    redirtbl: tuple[int, ...] = u64(48, bits=REDIRECTION)


@layout
class Lapic(Layout):
    """LAPIC: what a local APIC holds beside its registers. 16 bytes up to 4.0, 24 (with
    ``tdt_msr``) from 4.1, 32 (with ``pending_esr``) from 4.21."""

    apic_base_msr: int = u64(bits=bits(bsp=8, extd=10, enable=11, base_pfn=(12, 40)))
    disabled: int = u32(bits=bits(hw=0, sw=1))
    timer_divisor: int = u32()
    tdt_msr: int = u64()
    pending_esr: int = u32()
    pad: int = u32()


_NR_REGISTERS = 64  # every 16 bytes of the first 1024 of the register page
_REGISTERS = struct.Struct("<" + "I12s" * _NR_REGISTERS)

# By offset in the page. ISR, TMR and IRR are eight registers each.
LAPIC_REGISTERS = {
    0x020: "id", 0x030: "version", 0x080: "tpr", 0x090: "apr", 0x0A0: "ppr", 0x0B0: "eoi",
    0x0C0: "rrd", 0x0D0: "ldr", 0x0E0: "dfr", 0x0F0: "svr",
    **{0x100 + 16 * n: f"isr{n}" for n in range(8)},
    **{0x180 + 16 * n: f"tmr{n}" for n in range(8)},
    **{0x200 + 16 * n: f"irr{n}" for n in range(8)},
    0x280: "esr", 0x2F0: "lvt_cmci", 0x300: "icr_low", 0x310: "icr_high", 0x320: "lvt_timer",
    0x330: "lvt_thermal", 0x340: "lvt_perf", 0x350: "lvt_lint0", 0x360: "lvt_lint1",
    0x370: "lvt_error", 0x380: "timer_initial_count", 0x390: "timer_current_count",
    0x3E0: "timer_divide", 0x3F0: "self_ipi",
}  # fmt: skip
_REGISTER_NAMES = tuple(
    LAPIC_REGISTERS.get(16 * n, f"reserved_{16 * n:03x}") for n in range(_NR_REGISTERS)
)


@frozen
class LapicRegs:
    """LAPIC_REGS: the registers of a local APIC, as they lie in its page.

    :ivar registers: 64 values, one for each 16 bytes.
    :ivar between: the 12 bytes after each.
    """

    registers: tuple[int, ...]
    between: tuple[bytes, ...]

    def __getitem__(self, name: str) -> int:
        """By name: ``regs["tpr"]``."""
        return self.registers[_REGISTER_NAMES.index(name)]

    def as_json(self) -> Any:
        shown: dict[str, Any] = dict(zip(_REGISTER_NAMES, self.registers, strict=True))
        shown["between"] = {
            f"{16 * n + 4:#05x}": gap.hex() for n, gap in enumerate(self.between) if any(gap)
        }
        return shown


class LapicRegsForm(Form):
    def decode(self, payload: memoryview) -> LapicRegs:
        if len(payload) != _REGISTERS.size:
            raise wrong_length(str(_REGISTERS.size), len(payload))
        values = _REGISTERS.unpack(payload)
        return LapicRegs(values[::2], values[1::2])

    def encode(self, fields: Any, length: int) -> bytes:
        return _REGISTERS.pack(*chain.from_iterable(zip(fields.registers, fields.between,
                                                        strict=True)))  # fmt: skip


@layout
class PciIrq(Layout):
    """PCI_IRQ: a bit for each wire, numbered device * 4 + INTx."""

    lines: tuple[int, ...] = u64(2)

    @property
    def asserted(self) -> tuple[tuple[int, int], ...]:
        """(device, INTx) of each wire that is high; INTx 0 is INTA."""
        wires = self.lines[0] | self.lines[1] << 64
        return tuple(divmod(bit, 4) for bit in range(128) if wires >> bit & 1)

    def as_json(self) -> Any:
        asserted = [
            {"device": device, "intx": "INT" + "ABCD"[intx]} for device, intx in self.asserted
        ]
        return {**to_json(self), "asserted": asserted}


@layout
class IsaIrq(Layout):
    """ISA_IRQ: a bit for each wire."""

    lines: int = u64(bits=bits(**{f"irq{n}": n for n in range(16)}))


@layout
class PciLink(Layout):
    """PCI_LINK: the GSI that each of the four links is routed to."""

    route: tuple[int, ...] = u8(4)
    pad0: bytes = raw(4)


@layout
class PitChannel(Layout):
    count: int = u32()  # up to 65536
    latched_count: int = u16()
    count_latched: int = u8()
    status_latched: int = u8()
    status: int = u8()
    read_state: int = u8()
    write_state: int = u8()
    write_latch: int = u8()
    rw_mode: int = u8()
    mode: int = u8()
    bcd: int = u8()
    gate: int = u8()


@layout
class Pit(Layout):
    """PIT: an 8254."""

    channels: tuple[PitChannel, ...] = nested(PitChannel, 3)
    speaker_data_on: int = u32()
    pad0: int = u32()


@layout
class Cmos(Layout):
    """The clock's own part of CMOS memory; BCD or binary, as register B says."""

    seconds: int = u8()
    seconds_alarm: int = u8()
    minutes: int = u8()
    minutes_alarm: int = u8()
    hours: int = u8()
    hours_alarm: int = u8()
    day_of_week: int = u8()
    day_of_month: int = u8()
    month: int = u8()
    year: int = u8()
    reg_a: int = u8(bits=bits(rate=(0, 4), divider=(4, 3), update_in_progress=7))
    reg_b: int = u8(
        bits=bits(
            dst=0, hour_24=1, binary=2, square_wave=3, update_irq=4, alarm_irq=5,
            periodic_irq=6, set=7,
        )
    )  # fmt: skip
    reg_c: int = u8(bits=bits(update_flag=4, alarm_flag=5, periodic_flag=6, irq=7))
    reg_d: int = u8(bits=bits(valid=7))


@layout
class Rtc(Layout):
    """RTC. 16 bytes up to 4.13; ``rtc_offset``, in seconds, from 4.14."""

    cmos_data: Cmos = nested(Cmos)
    cmos_index: int = u8()
    pad0: int = u8()
    rtc_offset: int = i64()


@layout
class HpetTimer(Layout):
    config: int = u64(
        bits=bits(
            level=1, enable=2, periodic=3, periodic_capable=4, size_64=5, set_value=6,
            mode_32=8, int_route=(9, 5), fsb_enable=14, fsb_capable=15, int_route_cap=(32, 32),
        )
    )  # fmt: skip
    cmp: int = u64()
    fsb: int = u64()
    reserved: int = u64()


@layout
class Hpet(Layout):
    """HPET: the registers as they lie in memory, then the hidden part."""

    capability: int = u64(
        bits=bits(
            revision=(0, 8), last_timer=(8, 5), size_64=13, legacy_capable=15,
            vendor=(16, 16), period_fs=(32, 32),
        )
    )  # fmt: skip
    reserved_8: int = u64()
    config: int = u64(bits=bits(enable=0, legacy_replacement=1))
    reserved_24: int = u64()
    isr: int = u64()
    reserved_40: bytes = raw(200)
    mc64: int = u64()
    reserved_248: int = u64()
    timers: tuple[HpetTimer, ...] = nested(HpetTimer, 3)
    reserved_352: bytes = raw(672)
    period: tuple[int, ...] = u64(3)  # last value written to each comparator


PM1_EVENTS = bits(timer=0, bus_master=4, global_lock=5, power_button=8, sleep_button=9, rtc=10)


@layout
class Pmtimer(Layout):
    """PMTIMER: ACPI's timer and its fixed events."""

    tmr_val: int = u32()
    pm1a_sts: int = u16(bits=PM1_EVENTS)
    pm1a_en: int = u16(bits=PM1_EVENTS)
