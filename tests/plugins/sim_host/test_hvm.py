"""PVH and HVM guests, and what all types share."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from xsave import (
    DeviceModelFacet,
    HvmFacet,
    Record,
    RecordType,
    X86Facet,
    XsaveError,
)
from xsave_plugins.hvm_context import HvmContextHandler, HvmParamsHandler
from xsave_plugins.hvm_context.check import HvmCheck
from xsave_plugins.qemu_device.context import QemuContextHandler
from xsave_plugins.x86.cpuid_policy import CpuidPolicyHandler
from xsave_plugins.x86.msr_policy import MsrPolicyHandler

from .conftest import Boot

TYPES = ["pvh", "hvm"]


def test_memory_has_the_holes_and_special_pages_of_xen(boot: Boot) -> None:
    for kind, nr_expected in (("pvh", 2048 + 8), ("hvm", 2048 - 0x20 + 0x120 + 16)):
        domain = boot(f"{kind}?memory=8M")
        every = np.arange(domain.info.p2m_size, dtype=np.uint64)
        types = domain.page_types(every) >> np.uint64(60)
        assert set(types.tolist()) == {0, 15}
        present = np.flatnonzero(types == 0)
        assert len(present) == nr_expected == domain.guest.nr_populated
        assert set(range(0xFEFF8, 0xFF000)) <= set(present.tolist())
        assert (0xA0 in present.tolist()) == (kind == "pvh")


def test_memory_goes_on_above_4_gib(boot: Boot) -> None:
    domain = boot("pvh?memory=4G&resident=4M")
    types = domain.page_types(np.array([0xEFFFF, 0xF0000, 0x100000, 0x10FFFF], np.uint64))
    assert (types >> np.uint64(60)).tolist() == [0, 15, 0, 0]


@pytest.mark.parametrize("kind", TYPES)
def test_the_context_is_what_the_hvm_plugin_accepts(boot: Boot, kind: str) -> None:
    hvm: HvmFacet = boot(f"{kind}?memory=8M&vcpus=3&online=2").facet("hvm")
    handler, check = HvmContextHandler(), HvmCheck()
    body = hvm.context()
    state = handler.decode(memoryview(body))
    assert b"".join(handler.encode(state)) == body
    check.see_record(Record(RecordType("xen.hvm.context"), body), state)
    check.finish()
    found = [(one.name, one.instance) for one in state.save_records]
    assert [name for name, _ in found].count("CPU") == 2
    assert [name for name, _ in found].count("LAPIC_REGS") == 3
    assert [one.type.typecode for one in state.save_records[:-1]] == sorted(
        one.type.typecode for one in state.save_records[:-1]
    )
    assert (("PIC", 1) in found) == (kind == "hvm")


def test_registers_of_a_running_guest_change(boot: Boot) -> None:
    domain = boot("hvm?memory=8M")
    hvm: HvmFacet = domain.facet("hvm")
    before = hvm.context()
    domain.guest.step(0.05)
    decode = HvmContextHandler().decode
    one, two = (decode(memoryview(body)).find("CPU") for body in (before, hvm.context()))
    assert one is not None
    assert two is not None
    assert two.fields.rax == one.fields.rax + 5


@pytest.mark.parametrize("kind", TYPES)
def test_a_context_goes_into_another_guest_as_it_is(boot: Boot, kind: str) -> None:
    source, target = (boot(f"{kind}?memory=8M&seed={seed}").facet("hvm") for seed in (1, 2))
    assert source.context() != target.context()
    target.set_context(source.context())
    assert target.context() == source.context()


HEADER = struct.pack("<HHIIIQII", 1, 0, 24, 0x54381286, 1, 0, 0, 0)
END = struct.pack("<HHI", 0, 0, 0)


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (b"", "expected END"),
        (HEADER, "expected END"),
        (END, "the header comes first"),
        (HEADER + HEADER + END, "the header comes first, and once"),
        (HEADER + END[:5], "cut at 0x20"),
        (HEADER + struct.pack("<HHI", 19, 0, 9) + END, "cut at 0x20"),
        (HEADER + struct.pack("<HHIQ", 19, 1, 8, 0) + END, "vcpu 1, but there are only 1"),
        (HEADER + struct.pack("<HHIQ", 2, 0, 8, 0) + END, "save record 2 at 0x20: wrong length 8"),
        (HEADER + struct.pack("<HHIQ", 30, 0, 8, 0) + END, "no such type"),
        (HEADER.replace(b"\x86", b"\x87") + END, "wrong magic"),
    ],
)
def test_a_context_that_no_hypervisor_loads_is_refused(
    boot: Boot, records: bytes, says: str
) -> None:
    hvm: HvmFacet = boot("hvm?memory=8M").facet("hvm")
    before = hvm.context()
    with pytest.raises(XsaveError, match=says):
        hvm.set_context(records)
    assert hvm.context() == before


def test_parameters_are_those_of_xen(boot: Boot) -> None:
    hvm: HvmFacet = boot("hvm?memory=8M").facet("hvm")
    named = {1: 0xFEFFC, 5: 0xFEFFD, 6: 0xFEFFB, 12: 0xFEFFE000, 17: 0xFEFFF, 32: 0xFEFF0}
    assert named.items() <= hvm.params().items()
    pvh: HvmFacet = boot("pvh?memory=8M").facet("hvm")
    assert sorted(pvh.params()) == [1, 5, 6, 12, 17, 27, 28, 29]
    pvh.set_param(9, 0x41)
    pvh.set_param(1, 0)
    assert pvh.params()[9] == 0x41
    assert 1 not in pvh.params()
    for index, value in ((39, 1), (-1, 1), (1, 1 << 64)):
        with pytest.raises(XsaveError, match="HVM parameter"):
            pvh.set_param(index, value)
    (state,) = HvmParamsHandler().collect(boot("hvm?memory=8M"))
    assert len(state.params) == 12


def test_the_identity_page_table_maps_each_address_to_itself(boot: Boot) -> None:
    out = np.empty((1, 4096), np.uint8)
    assert boot("pvh?memory=8M").read_pages(np.array([0xFEFFE], np.uint64), out).all()
    words = out.view(np.uint32)[0]
    assert words[:3].tolist() == [0xE7, 0x4000E7, 0x8000E7]


# The device model, and what all types share.


def test_only_hvm_guests_have_a_device_model(boot: Boot) -> None:
    facets = {kind: boot(f"{kind}?memory=8M") for kind in ("pv", "pvh", "hvm")}
    have = {kind: [name for name in ("x86", "pv", "hvm", "device_model", "tmem")
                   if one.facet(name) is not None] for kind, one in facets.items()}  # fmt: skip
    assert have == {
        "pv": ["x86", "pv"], "pvh": ["x86", "hvm"], "hvm": ["x86", "hvm", "device_model"],
    }  # fmt: skip


def test_the_device_models_state_is_a_real_one_and_only_read_when_it_stopped(boot: Boot) -> None:
    domain = boot("hvm?memory=8M")
    model: DeviceModelFacet = domain.facet("device_model")
    with pytest.raises(XsaveError, match="has not stopped"):
        model.state()
    domain.pause()
    (state,) = QemuContextHandler().collect(domain)
    walked = state.walk()
    assert walked is not None
    assert len(walked.sections) > 10
    assert (model.emulator, model.xenstore_data()) == (2, b"")


def test_a_device_model_takes_what_it_understands(boot: Boot) -> None:
    domain = boot("hvm?memory=8M")
    domain.pause()
    model: DeviceModelFacet = domain.facet("device_model")
    model.load(2, b"QEVM and more")
    model.load_xenstore_data(2, b"key\0value\0")
    assert (model.state(), model.xenstore_data()) == (b"QEVM and more", b"key\0value\0")
    with pytest.raises(XsaveError, match="knows only"):
        model.load(1, b"DeviceModelRecord0002")
    with pytest.raises(XsaveError, match="NUL"):
        model.load_xenstore_data(2, b"key")


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_policies_are_what_their_handlers_know_and_can_be_set(boot: Boot, kind: str) -> None:
    x86: X86Facet = boot(f"{kind}?memory=8M").facet("x86")
    for handler, body in (
        (CpuidPolicyHandler(), x86.cpuid_policy()), (MsrPolicyHandler(), x86.msr_policy()),
    ):  # fmt: skip
        assert b"".join(handler.encode(handler.decode(memoryview(body)))) == body
    leaves = list(struct.iter_unpack("<6I", x86.cpuid_policy()))
    assert len(leaves) == 52
    assert [leaf[:2] for leaf in leaves] == sorted(leaf[:2] for leaf in leaves)
    x86.set_cpuid_policy(bytes(24))
    x86.set_msr_policy(bytes(16))
    assert (x86.cpuid_policy(), x86.msr_policy()) == (bytes(24), bytes(16))
    for wrong in (b"", bytes(25)):
        with pytest.raises(XsaveError, match="policy: expected"):
            x86.set_cpuid_policy(wrong)
        with pytest.raises(XsaveError, match="policy: expected"):
            x86.set_msr_policy(wrong)


def test_the_tsc_goes_on_from_where_it_was_set(boot: Boot) -> None:
    domain = boot("pvh?memory=8M")
    x86: X86Facet = domain.facet("x86")
    domain.guest.step(0.5)
    assert x86.tsc_info() == (0, 2_595_104, 500_000_000, 1)
    x86.set_tsc_info(1, 1_000_000, 7_000_000_000, 3)
    domain.guest.step(0.25)
    assert x86.tsc_info() == (1, 1_000_000, 7_250_000_000, 3)
    with pytest.raises(XsaveError, match="TSC mode 4"):
        x86.set_tsc_info(4, 0, 0, 0)


def test_ballooning_takes_and_gives_memory(boot: Boot) -> None:
    domain = boot("pvh?memory=8M&workload=ballooning&dirty=80M/s")
    counts = set()
    for _ in range(40):
        domain.guest.step(0.05)
        counts.add(domain.guest.nr_populated)
    assert max(counts) - min(counts) > 300


def test_a_balloon_waits_when_the_host_has_no_memory_for_it(boot: Boot) -> None:
    domain = boot("pvh?memory=8M&workload=ballooning&dirty=80M/s&host=tight&host_memory=12M")
    host = domain.guest.host
    while domain.guest.nr_populated > 1700:
        domain.guest.step(0.01)
    taken = host.allocate(99, np.arange(host.nr_free, dtype=np.uint64))
    domain.guest.step(1)
    assert host.nr_free < 100
    host.free(taken)
    before = domain.guest.nr_populated
    domain.guest.step(0.2)
    assert domain.guest.nr_populated > before
