"""A Xen host, from its dom0: PV, PVH and HVM guests saved from where they run.

How: docs/backends/xen.md. Everything that needs numpy or Xen's libraries loads with the first
address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xsave import PluginInfo, hookimpl

from .backend import XenBackend

if TYPE_CHECKING:
    from xsave import Backend

PLUGIN = PluginInfo(
    name="xen-host",
    summary="domain backend: the guests of a Xen host, from its dom0",
    contract=(1, 1),
)


@hookimpl
def xsave_register_backends(register: Callable[[Backend], None]) -> None:
    register(XenBackend())


@hookimpl
def xsave_doctor(report: Callable[[str, bool, str], None]) -> None:
    from .doctor import look

    look(report)
