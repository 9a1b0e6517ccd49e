"""A simulated host: PV, PVH and HVM guests in this process that keep changing their memory.

Addresses and what is simulated how closely: docs/backends/sim.md. Everything that needs
numpy loads with the first guest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xsave import PluginInfo, hookimpl

from .backend import SimBackend

if TYPE_CHECKING:
    from xsave import Backend

PLUGIN = PluginInfo(
    name="sim",
    summary="domain backend: simulated hosts with PV, PVH and HVM guests",
    contract=(1, 1),
)


@hookimpl
def xsave_register_backends(register: Callable[[Backend], None]) -> None:
    register(SimBackend())
