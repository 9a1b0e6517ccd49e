"""Save records of the platform, field by field."""

from __future__ import annotations

import struct

import pytest

from xsave_plugins.hvm_context import HvmContextHandler
from xsave_plugins.hvm_context.platform import Hpet, Lapic, PciIrq, Pit, Rtc

HANDLER = HvmContextHandler()


@pytest.fixture
def hvm(golden):
    """Fields of the real HVM guest, by name and instance."""
    state = HANDLER.decode(memoryview(golden("xen.hvm.context.hvm")))
    return lambda name, instance=0: state.find(name, instance).fields


@pytest.fixture
def shown(golden):
    state = HANDLER.decode(memoryview(golden("xen.hvm.context.hvm")))
    records = HANDLER.describe(state, {})["save_records"]
    return {(one["type"], one["instance"]): one["fields"] for one in records}


def test_header_says_who_saved(hvm):
    header = hvm("HEADER")
    assert (header.magic, header.version) == (0x54381286, 1)
    assert header.changeset == 2**64 - 1, "not a number"
    assert (header.cpuid, header.gtsc_khz) == (0x60FB1, 2596127)


def test_pics_are_master_and_slave_with_the_firmwares_vectors(hvm, shown):
    assert [hvm("PIC", n).irq_base for n in (0, 1)] == [0x08, 0x70]
    assert [hvm("PIC", n).imr for n in (0, 1)] == [0xB8, 0x8E]
    assert [shown["PIC", n]["modes"]["bits"]["is_master"] for n in (0, 1)] == [1, 0]
    assert list(shown["PIC", 0]["modes"]["bits"]) == [
        "readsel_isr", "poll", "auto_eoi", "rotate_on_auto_eoi", "special_fully_nested_mode",
        "special_mask_mode", "is_master",
    ]  # fmt: skip
    assert shown["PIC", 0]["init_and_priority"]["bits"] == {"init_state": 0, "priority_add": 0}


def test_ioapic_has_48_redirection_entries_with_named_parts(hvm, shown):
    ioapic = hvm("IOAPIC")
    assert (ioapic.base_address, ioapic.ioregsel, ioapic.id) == (0xFEC00000, 0x11, 0)
    entries = shown["IOAPIC", 0]["redirtbl"]
    assert len(entries) == 48
    assert entries[0]["bits"] == {
        "vector": 0, "delivery_mode": 7, "dest_mode": 0, "delivery_status": 0, "polarity": 0,
        "remote_irr": 0, "trig_mode": 0, "mask": 0, "dest_id": 0,
    }  # fmt: skip
    assert entries[1]["bits"]["mask"] == 1


def test_lapic_of_the_offline_vcpu_is_disabled_by_software(hvm, shown):
    assert hvm("LAPIC", 0).apic_base_msr == 0xFEE00900
    assert hvm("LAPIC", 1).apic_base_msr == 0xFEE00800
    assert shown["LAPIC", 1]["disabled"]["bits"] == {"hw": 0, "sw": 1}
    assert shown["LAPIC", 0]["apic_base_msr"]["bits"] == {
        "bsp": 1, "extd": 0, "enable": 1, "base_pfn": 0xFEE00,
    }  # fmt: skip


def test_lapic_registers_go_by_their_architectural_names(hvm, shown):
    regs = hvm("LAPIC_REGS", 0)
    assert (regs["version"], regs["svr"], regs["dfr"]) == (0x50014, 0x1FF, 0xFFFFFFFF)
    assert (regs["lvt_lint0"], regs["lvt_lint1"], regs["lvt_timer"]) == (0x10700, 0x400, 0x10000)
    assert hvm("LAPIC_REGS", 1)["id"] == 2 << 24
    assert shown["LAPIC_REGS", 0]["icr_high"] == 2 << 24
    assert shown["LAPIC_REGS", 0]["between"] == {}


def test_lapic_bytes_between_registers_are_shown_where_they_are_not_zero(context, save_record):
    page = bytearray(1024)
    page[0x80], page[0x85] = 0x10, 0xEE
    body = context(save_record(6, bytes(page), instance=7))
    state = HANDLER.decode(memoryview(body))
    assert state.find("LAPIC_REGS", 7).fields["tpr"] == 0x10
    fields = HANDLER.describe(state, {})["save_records"][1]["fields"]
    assert fields["between"] == {"0x084": "00ee" + "00" * 10}


def test_pci_wires_are_numbered_by_device_and_pin():
    wires = PciIrq.decode((1 << 13 | 1 << 127).to_bytes(16, "little"))
    assert wires.asserted == ((3, 1), (31, 3))
    assert wires.as_json()["asserted"] == [
        {"device": 3, "intx": "INTB"}, {"device": 31, "intx": "INTD"},
    ]  # fmt: skip


def test_interrupt_lines_and_links_of_the_real_guest(hvm, shown):
    assert hvm("PCI_IRQ").asserted == ()
    assert shown["ISA_IRQ", 0]["lines"]["bits"]["irq0"] == 1
    assert hvm("PCI_LINK").route == (5, 10, 11, 5)


def test_pit_of_the_real_guest_ticks_at_18_hz(hvm):
    pit = hvm("PIT")
    assert [channel.count for channel in pit.channels] == [65536] * 3
    assert [channel.gate for channel in pit.channels] == [1, 1, 0]
    assert (pit.channels[0].rw_mode, pit.channels[0].mode) == (3, 2)


def test_pit_channel_fields_lie_where_xen_has_them():
    channel = struct.pack("<IH10B", 1, 2, *range(3, 13))
    pit = Pit.decode(bytes(16) + channel + bytes(16) + struct.pack("<II", 13, 14))
    one = pit.channels[1]
    assert (one.count, one.latched_count, one.count_latched, one.status_latched) == (1, 2, 3, 4)
    assert (one.status, one.read_state, one.write_state, one.write_latch) == (5, 6, 7, 8)
    assert (one.rw_mode, one.mode, one.bcd, one.gate) == (9, 10, 11, 12)
    assert (pit.speaker_data_on, pit.pad0) == (13, 14)


def test_rtc_of_the_real_guest_is_a_date(hvm):
    rtc = hvm("RTC")
    assert (rtc.cmos_data.seconds, rtc.cmos_data.minutes) == (0x12, 0x16)
    assert (rtc.cmos_data.reg_a, rtc.cmos_data.reg_b, rtc.cmos_data.reg_d) == (0x26, 2, 0x80)
    assert (rtc.cmos_index, rtc.rtc_offset) == (15, 0)


def test_rtc_offset_is_signed_and_zero_before_4_14(context, save_record):
    late = Rtc.decode(bytes(16) + (-3600).to_bytes(8, "little", signed=True))
    assert late.rtc_offset == -3600
    state = HANDLER.decode(memoryview(context(save_record(11, b"\xff" * 16))))
    assert state.find("RTC").fields.rtc_offset == 0


def test_hpet_registers_lie_where_the_device_has_them(hvm, shown):
    hpet = hvm("HPET")
    assert hpet.capability == 0xF424008086A201
    assert [timer.cmp for timer in hpet.timers] == [2**64 - 1] * 3
    assert shown["HPET", 0]["capability"]["bits"]["vendor"] == 0x8086
    page = bytearray(1048)
    for offset, value in ((16, 1), (32, 2), (240, 3), (256 + 32, 4), (256 + 72, 5), (1040, 6)):
        page[offset] = value
    hpet = Hpet.decode(bytes(page))
    assert (hpet.config, hpet.isr, hpet.mc64, hpet.timers[1].config) == (1, 2, 3, 4)
    assert (hpet.timers[2].cmp, hpet.period[2]) == (5, 6)


def test_pmtimer_counts(hvm):
    pmtimer = hvm("PMTIMER")
    assert (pmtimer.tmr_val, pmtimer.pm1a_sts, pmtimer.pm1a_en) == (0x7C2EEDF, 0, 0)


def test_lapic_fields_by_release():
    whole = struct.pack("<QIIQII", 1, 2, 3, 4, 5, 6)
    lapic = Lapic.decode(whole)
    assert (lapic.apic_base_msr, lapic.disabled, lapic.timer_divisor) == (1, 2, 3)
    assert (lapic.tdt_msr, lapic.pending_esr, lapic.pad) == (4, 5, 6)
