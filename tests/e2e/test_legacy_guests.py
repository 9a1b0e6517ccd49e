"""A simulated guest's image, written as Xen before 4.6 would have: read, it is that image again,
and a simulated host restores it."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest

import xsave
from tests.e2e.test_live_guests import differences
from tests.plugins.legacy.as_legacy import as_legacy
from xsave import GuestType, PageBatch, PageMode, Record

GUESTS = {
    "pv": "sim:pv?memory=8M&vcpus=2&seed=3",
    "pv tmem": "sim:pv?memory=8M&seed=4&tmem=40&tmem_pools=persistent,ephemeral,persistent",
    "pv tmem 64": "sim:pv?memory=8M&seed=5&tmem=9&tmem_ids=64",
    "hvm": "sim:hvm?memory=8M&seed=6",
    "pvh": "sim:pvh?memory=8M&seed=7&tmem=5",
}
VM86_TSS_SIZED = 37  # a parameter of Xen 4.9 and later
# Policies and a PV guest's MSRs came later too; an extended context comes with zeroes behind it.
UNSAID = re.compile(r"(cpuid|msr) policy|hvm params|vcpu \d+ (extended|msrs)")
# What a legacy stream has no place for, and what it frames in another way.
FRAMING = (
    "xen.libxl.", "xen.libxc.", "xen.x86.cpuid_policy", "xen.x86.msr_policy", "xen.pv.vcpu_msrs",
)  # fmt: skip


def kind_of(guest: str) -> GuestType:
    return GuestType.X86_PV if guest.split(maxsplit=1)[0] == "pv" else GuestType.X86_HVM


def events_of(data: bytes, manager: xsave.PluginManager) -> list[Any]:
    from xsave.pipeline.stream import open_stream

    with xsave.Workers(1) as pool:
        opened = open_stream(io.BytesIO(data), manager, pool, pages=lambda _format: PageMode.FULL)
        return list(opened.reader)


def memory_of(events: list[Any]) -> dict[int, tuple[int, bytes]]:
    """By pfn: the latest type and contents of pages that are there."""
    found: dict[int, tuple[int, bytes]] = {}
    for batch in events:
        if not isinstance(batch, PageBatch):
            continue
        assert batch.pages is not None
        carries = xsave.carries_page(batch.entries)
        rows = np.cumsum(carries) - 1
        for at, pfn in enumerate(batch.pfns.tolist()):
            if carries[at]:
                found[pfn] = (int(batch.types[at]), batch.pages[rows[at]].tobytes())
    return found


def state_of(events: list[Any]) -> dict[str, list[bytes]]:
    """Bodies by name, but for framing; parameters by what they say, as they are in two records,
    and the emulator's number, which is none in an old stream."""
    found: dict[str, list[bytes]] = {}
    params: dict[int, int] = {}
    for record in events:
        if not isinstance(record, Record) or record.name.startswith(FRAMING):
            continue
        body = bytes(record.body)
        if record.name == "xen.hvm.params":
            params.update(dict(np.frombuffer(body[8:], "<u8").reshape(-1, 2).tolist()))
        elif record.name == "xen.qemu.context":
            found[record.name] = [body[8:]]
        elif record.name == "xen.pv.vcpu_extended":
            found.setdefault(record.name, []).append(body.ljust(8 + 128, b"\0"))
        else:
            found.setdefault(record.name, []).append(body)
    params.pop(VM86_TSS_SIZED, None)
    found["params"] = [repr(sorted(params.items())).encode()]
    return {name: sorted(bodies) for name, bodies in found.items()}


@pytest.mark.parametrize("w", [4, 8])
@pytest.mark.parametrize("name", GUESTS)
def test_a_guests_image_is_the_same_by_way_of_a_legacy_stream(
    name: str, w: int, manager: xsave.PluginManager
) -> None:
    out = io.BytesIO()
    xsave.run(GUESTS[name], out, to="native", live=False, then="destroy", manager=manager)
    before = events_of(out.getvalue(), manager)
    kind = kind_of(name)
    old = as_legacy(before, kind, w)
    found = xsave.identify(io.BytesIO(old), manager=manager)
    assert found.info is not None
    assert (found.name, found.info.word_size, found.info.guest_type) == ("legacy", w, kind)
    again = io.BytesIO()
    xsave.run(io.BytesIO(old), again, to="native", manager=manager)
    after = events_of(again.getvalue(), manager)
    assert memory_of(after) == memory_of(before)
    assert state_of(after) == state_of(before)


@pytest.mark.parametrize("guest", GUESTS)
def test_a_simulated_host_restores_the_guest_that_was_saved(
    guest: str, manager: xsave.PluginManager
) -> None:
    """All that the host itself finds of it, but for what a legacy stream cannot say."""
    name, out = f"old-{guest.replace(' ', '-')}", io.BytesIO()
    address = f"{GUESTS[guest]}&name={name}&clock=reads&prove=yes"
    xsave.run(address, out, live=False, then="destroy", manager=manager)
    old = as_legacy(events_of(out.getvalue(), manager), kind_of(guest), 8)
    there = f"sim:{guest.split(maxsplit=1)[0]}?host=b&name={name}&clock=reads&prove=yes"
    report = xsave.run(io.BytesIO(old), there, manager=manager)
    assert report.source.format == "legacy"
    assert {what for what in differences(manager, name) if not UNSAID.fullmatch(what)} == set()
