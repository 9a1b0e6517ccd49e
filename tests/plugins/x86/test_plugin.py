from __future__ import annotations

import subprocess
import sys

from xsave import Handler, build_manager
from xsave_plugins import x86


def registered() -> dict[str, Handler]:
    return build_manager([x86]).handlers.items()


def test_offers_the_three_shared_records() -> None:
    assert sorted(registered()) == [
        "xen.x86.cpuid_policy",
        "xen.x86.msr_policy",
        "xen.x86.tsc_info",
    ]


def test_comes_with_the_framing_it_makes_no_sense_without() -> None:
    assert x86.PLUGIN.needs == {"xen"}


def test_policies_come_before_the_end_of_static_data() -> None:
    assert build_manager([x86]).record_order() == [
        "xen.x86.cpuid_policy",
        "xen.x86.msr_policy",
        "xen.x86.tsc_info",
    ]
    for name in ("xen.x86.cpuid_policy", "xen.x86.msr_policy"):
        assert "xen.libxc.static_data_end" in registered()[name].before


def test_loading_it_does_not_import_numpy() -> None:
    code = "import sys, xsave_plugins.x86; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
