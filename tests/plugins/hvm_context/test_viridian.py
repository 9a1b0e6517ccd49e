"""Save records of guests that use Viridian features."""

from __future__ import annotations

import struct

import pytest

from xsave_plugins.hvm_context import HvmContextHandler
from xsave_plugins.hvm_context.viridian import ViridianDomain, ViridianVcpu

HANDLER = HvmContextHandler()


def test_viridian_fields_lie_where_xen_has_them():
    domain = ViridianDomain.decode(struct.pack("<4Q", 1, 2, 3, 4))
    assert (domain.hypercall_gpa, domain.guest_os_id) == (1, 2)
    assert (domain.time_ref_count, domain.reference_tsc) == (3, 4)
    vcpu = ViridianVcpu.decode(struct.pack("<QB7x25Q", 1, 2, *range(3, 28)))
    assert (vcpu.vp_assist_msr, vcpu.apic_assist_pending, vcpu.simp_msr) == (1, 2, 3)
    assert vcpu.sint_msr == tuple(range(4, 20))
    assert vcpu.stimer_config_msr == (20, 21, 22, 23)
    assert vcpu.stimer_count_msr == (24, 25, 26, 27)


@pytest.mark.parametrize(
    ("typecode", "size", "absent"),
    [
        (15, 16, {"time_ref_count", "reference_tsc"}),
        (15, 24, {"reference_tsc"}),
        (17, 8, {"apic_assist_pending", "simp_msr"}),
        (17, 16, {"simp_msr"}),
    ],
)
def test_fields_of_later_releases_are_zero(context, save_record, typecode, size, absent):
    state = HANDLER.decode(memoryview(context(save_record(typecode, b"\x11" * size))))
    fields = state.save_records[1].fields
    scalars = {name for name in fields.FIELDS if isinstance(getattr(fields, name), int)}
    assert {name for name in scalars if getattr(fields, name) == 0} == absent


def test_parts_of_the_msrs_are_named(context, save_record):
    payload = struct.pack("<QB7x", 0x1234001, 1).ljust(216, b"\0")
    state = HANDLER.decode(memoryview(context(save_record(17, payload))))
    fields = HANDLER.describe(state, {})["save_records"][1]["fields"]
    assert fields["vp_assist_msr"]["bits"] == {"enabled": 1, "pfn": 0x1234}
    assert len(fields["sint_msr"]) == 16
    assert fields["sint_msr"][0]["bits"] == {
        "vector": 0, "mask": 0, "auto_eoi": 0, "polling": 0,
    }  # fmt: skip
