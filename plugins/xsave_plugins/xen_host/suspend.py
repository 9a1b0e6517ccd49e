"""Bringing a guest to a consistent stop, and letting it go on.

A guest with Xen's drivers is asked through xenstore and stops itself, so that its devices are
at rest; one without them is stopped from outside, its device model carries what is open.

Source: Xen's docs/misc/xenstore-paths, public sched.h; the way libxl does it.
"""

from __future__ import annotations

import logging

from xsave import XsaveError

from . import abi
from .control import Control, DomainState
from .xenstore import RELEASE_DOMAIN, Xenstore

log = logging.getLogger("xsave.xen")

# As long as libxl waits: a guest that swaps or is slowed to a crawl may take its time.
LIMIT_S = 60.0
# For a guest that took note of a request while that was withdrawn.
WITHDRAWN_S = 5.0
REQUEST = "suspend"


def suspend(control: Control, store: Xenstore, limit_s: float = LIMIT_S) -> None:
    """Returns when the guest has suspended.

    :raises XsaveError: it did not; it goes on running.
    """
    state = control.state()
    if state.suspended:
        return
    _check_runs(control.domid, state)
    takes_part = not state.is_hvm or _has_drivers(control)
    if not takes_part:
        log.info("domain %d has no drivers for Xen: it is suspended from outside", control.domid)
        control.suspend_from_outside()
        _await_stop(control, store, limit_s)
        return
    if state.paused:
        raise XsaveError(
            f"domain {control.domid} is paused, so it cannot take part in being suspended: "
            "unpause it first"
        )
    _ask(control, store, limit_s)
    _await_stop(control, store, limit_s)


def settle(control: Control, store: Xenstore, limit_s: float = LIMIT_S) -> None:
    """A guest was asked to suspend, by somebody who is no more: withdraw that, or where the
    guest has taken note of it, wait until it has stopped."""
    path = f"/local/domain/{control.domid}/control/shutdown"
    withdrawn = store.read(path) == REQUEST
    if withdrawn:
        store.write(path, "")
    limit_s = min(limit_s, WITHDRAWN_S) if withdrawn else limit_s
    store.wait_until(lambda: control.state().shutdown_reason is not None, [RELEASE_DOMAIN], limit_s)


def resume(control: Control, store: Xenstore, width: int) -> None:
    """Let a suspended guest go on where it was.

    :param width: bytes of its registers.
    """
    state = control.state()
    if not state.suspended:
        return
    if not state.is_hvm or _has_drivers(control):
        # What its suspend call gives back: 1, it was cancelled, instead of 0, it is elsewhere.
        context = bytearray(control.vcpu_context(0, width))
        at = abi.CONTEXT_RAX[width]
        context[at : at + width] = (1).to_bytes(width, "little")
        control.set_vcpu_context(0, bytes(context))
    control.resume()
    store.resumed(control.domid)


def _check_runs(domid: int, state: DomainState) -> None:
    if state.dying:
        raise XsaveError(f"domain {domid} is being destroyed")
    if state.shutdown_reason is not None:
        raise XsaveError(f"domain {domid} has shut down (reason {state.shutdown_reason})")


def _has_drivers(control: Control) -> bool:
    """Whether an HVM or PVH guest has told Xen how it takes interrupts from it, and is
    awake enough to take one."""
    if control.hvm_param(abi.PARAM_ACPI_S_STATE):
        return False
    return control.hvm_param(abi.PARAM_CALLBACK_IRQ) != 0


def _ask(control: Control, store: Xenstore, limit_s: float) -> None:
    """The guest takes the request away when it has seen it."""
    path = f"/local/domain/{control.domid}/control/shutdown"

    def was_seen() -> bool:
        return store.read(path) != REQUEST

    store.write(path, REQUEST)
    try:
        seen = store.wait_until(was_seen, [path], limit_s)
    except BaseException:
        store.write(path, "")
        raise
    if not seen:
        store.write(path, "")
        raise XsaveError(
            f"domain {control.domid} has not taken note of the request to suspend within "
            f"{limit_s:.0f} s; it was withdrawn, the guest runs on"
        )


def _await_stop(control: Control, store: Xenstore, limit_s: float) -> None:
    def has_stopped() -> bool:
        return control.state().shutdown_reason is not None

    if not store.wait_until(has_stopped, [RELEASE_DOMAIN], limit_s):
        raise XsaveError(f"domain {control.domid} has not suspended within {limit_s:.0f} s")
    reason = control.state().shutdown_reason
    if reason != abi.SHUTDOWN_SUSPEND:
        raise XsaveError(
            f"domain {control.domid} was to suspend, but has shut down (reason {reason})"
        )
