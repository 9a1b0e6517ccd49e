"""What PV and HVM guests share goes from one domain to another."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.plugins.fake_domain import FakeDomain, FakeX86, apply, bodies, move
from xsave import GuestType, RecordHandler, XsaveError
from xsave_plugins.x86.cpuid_policy import CpuidPolicyHandler
from xsave_plugins.x86.msr_policy import MsrPolicyHandler
from xsave_plugins.x86.tsc_info import TscInfoHandler

HANDLERS = (TscInfoHandler(), CpuidPolicyHandler(), MsrPolicyHandler())
TSC = (1, 2_596_128, 22_650_000_123, 3)


def domain(**known: Any) -> FakeDomain:
    return FakeDomain(GuestType.X86_HVM, 4, facets={"x86": FakeX86(**known)})


def test_the_counter_arrives_in_the_streams_layout() -> None:
    source, dest = domain(tsc=TSC), domain()
    assert move(TscInfoHandler(), source, dest) == [struct.pack("<IIQII", *TSC, 0)]
    assert dest.facets["x86"].tsc == TSC


def test_policies_arrive_byte_for_byte(golden_body: Callable[[str], memoryview]) -> None:
    cpuid = bytes(golden_body("xen.x86.cpuid_policy.pv"))
    msrs = bytes(golden_body("xen.x86.msr_policy.pv"))
    source, dest = domain(cpuid=cpuid, msrs=msrs), domain()
    assert move(CpuidPolicyHandler(), source, dest) == [cpuid]
    assert move(MsrPolicyHandler(), source, dest) == [msrs]
    assert dest.facets["x86"] == source.facets["x86"]


def test_a_host_without_policies_gives_no_records() -> None:
    assert not bodies(CpuidPolicyHandler(), domain())
    assert not bodies(MsrPolicyHandler(), domain())


@pytest.mark.parametrize("handler", HANDLERS, ids=lambda handler: handler.name)
def test_a_domain_without_the_facet_has_none_and_takes_none(
    handler: RecordHandler[Any],
) -> None:
    bare = FakeDomain(GuestType.X86_HVM, 4)
    assert not bodies(handler, bare)
    with pytest.raises(XsaveError, match="no 'x86' state"):
        apply(handler, bare, bytes(16 if handler is HANDLERS[2] else 24))
