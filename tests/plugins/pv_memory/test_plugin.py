from __future__ import annotations

import subprocess
import sys

from xsave import GuestType, ImageInfo, build_manager
from xsave_plugins import pv_memory, x86


def test_records_are_ordered_as_xen_writes_them() -> None:
    assert build_manager([pv_memory, x86]).record_order() == [
        "xen.pv.info",
        "xen.x86.cpuid_policy",
        "xen.x86.msr_policy",
        "xen.pv.p2m_frames",
        "xen.pv.page_data",
        "xen.x86.tsc_info",
        "xen.pv.shared_info",
        "xen.pv.vcpu_basic",
        "xen.pv.vcpu_extended",
        "xen.pv.vcpu_xsave",
        "xen.pv.vcpu_msrs",
    ]


def test_comes_with_the_framing_and_the_shared_records() -> None:
    assert pv_memory.PLUGIN.needs == {"xen", "x86"}


def test_all_its_records_are_for_pv_guests_only() -> None:
    for name, handler in build_manager([pv_memory]).handlers.items().items():
        assert name.startswith("xen.pv.")
        assert handler.guest_types == {GuestType.X86_PV}


def test_the_check_is_made_for_pv_streams_only() -> None:
    manager = build_manager([pv_memory])
    for guest_type, nr_checks in ((GuestType.X86_PV, 1), (GuestType.X86_HVM, 0)):
        info = ImageInfo("libxc", guest_type)
        assert len(manager.make_checks(info, frozenset({"pv"}))) == nr_checks


def test_loading_it_does_not_import_numpy() -> None:
    code = "import sys, xsave_plugins.pv_memory; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
