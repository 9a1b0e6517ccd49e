"""Plugin ``policies``: when pre-copy ends. What each does and its options: docs/policies.md."""

from __future__ import annotations

from collections.abc import Callable

from xsave import PluginInfo, PrecopyPolicy, hookimpl

from .downtime import DowntimePolicy
from .fixed import FixedPolicy
from .slowing import SlowingPolicy

PLUGIN = PluginInfo(
    name="policies",
    summary="pre-copy policies: Xen's rule, a target for the downtime, slowing the guest",
    contract=(1, 1),
)


@hookimpl
def xsave_register_policies(register: Callable[[PrecopyPolicy], None]) -> None:
    register(FixedPolicy())
    register(DowntimePolicy())
    register(SlowingPolicy())
