"""PV guests: pages, page tables' types, the p2m's frames, vcpus, shared info.

Layouts and what was checked against a real image: docs/formats/pv.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xsave import GuestType, Handler, ImageInfo, PluginInfo, hookimpl

from .info import PvInfoHandler
from .p2m_frames import P2mFramesHandler
from .page_data import PvPageDataHandler
from .shared_info import SharedInfoHandler
from .vcpu_basic import VcpuBasicHandler
from .vcpu_extended import VcpuExtendedHandler
from .vcpu_msrs import VcpuMsrsHandler
from .vcpu_xsave import VcpuXsaveHandler

if TYPE_CHECKING:
    from .check import PvCheck

PLUGIN = PluginInfo(
    name="pv",
    summary="PV guests: pages, p2m frames, vcpus, shared info",
    contract=(1, 1),
    needs=frozenset({"xen", "x86"}),
)


@hookimpl
def xsave_register_handlers(register: Callable[[Handler], None]) -> None:
    register(PvInfoHandler())
    register(P2mFramesHandler())
    register(PvPageDataHandler())
    register(SharedInfoHandler())
    register(VcpuBasicHandler())
    register(VcpuExtendedHandler())
    register(VcpuXsaveHandler())
    register(VcpuMsrsHandler())


@hookimpl
def xsave_make_check(info: ImageInfo) -> PvCheck | None:
    if info.guest_type is not GuestType.X86_PV:
        return None
    from .check import PvCheck  # imports numpy

    return PvCheck()
