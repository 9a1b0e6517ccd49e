"""What PV and HVM guests share on x86: time-stamp counter, CPUID and MSR policies.

Layouts and what was checked against real images: docs/formats/x86.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from xsave import Handler, PluginInfo, hookimpl

from .cpuid_policy import CpuidPolicyHandler
from .msr_policy import MsrPolicyHandler
from .tsc_info import TscInfoHandler

if TYPE_CHECKING:
    from xsave import GuestOffer, Host, HostDescription, Refuse

PLUGIN = PluginInfo(
    name="x86",
    summary="records shared by PV and HVM guests: TSC, CPUID and MSR policies",
    contract=(1, 1),
    needs=frozenset({"xen"}),
)


@hookimpl
def xsave_register_handlers(register: Callable[[Handler], None]) -> None:
    register(CpuidPolicyHandler())
    register(MsrPolicyHandler())
    register(TscInfoHandler())


@hookimpl
def xsave_describe_host(host: Host, tell: Callable[[Mapping[str, Any]], None]) -> None:
    from .examine import describe_host

    tell(describe_host(host))


@hookimpl
def xsave_examine(guest: GuestOffer, host: HostDescription, refuse: Refuse) -> None:
    from .examine import examine

    examine(guest, host, refuse)
