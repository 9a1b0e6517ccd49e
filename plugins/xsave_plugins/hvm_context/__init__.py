"""HVM and PVH guests: Xen's save records, the HVM parameters, and their pages.

Records: ``xen.hvm.params``, ``xen.hvm.context``, ``xen.hvm.page_data``; their layouts are
in docs/formats/hvm.md. The layouts themselves load with the first body, or when a domain is
to be saved or restored: declaring them takes longer than the rest of this plugin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xsave import GuestType, PluginInfo, hookimpl

from .check import HvmCheck
from .context import HvmContext, HvmContextHandler
from .page_data import HvmPageDataHandler
from .params import HvmParam, HvmParams, HvmParamsHandler
from .save_record import SaveRecord

if TYPE_CHECKING:
    from xsave import Handler, ImageInfo, StreamCheck

PLUGIN = PluginInfo(
    name="hvm",
    summary="HVM and PVH guests: save records, parameters, pages",
    contract=(1, 1),
    needs=frozenset({"xen", "x86", "qemu"}),
)


@hookimpl
def xsave_register_handlers(register: Callable[[Handler], None]) -> None:
    register(HvmParamsHandler())
    register(HvmContextHandler())
    register(HvmPageDataHandler())


@hookimpl
def xsave_make_check(info: ImageInfo) -> StreamCheck | None:
    return HvmCheck() if info.guest_type is GuestType.X86_HVM else None
