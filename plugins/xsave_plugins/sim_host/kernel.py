"""What a simulated guest's own kernel does: around a suspend, and with its balloon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .state_page import STATE_PFN, Word

if TYPE_CHECKING:
    from xsave import Entries

    from .guest import Guest


class Kernel:
    """Of a PVH or HVM guest: Xen translates its addresses, so there is little to do. All
    methods are called with the guest's lock held.

    :ivar churns: whether it has page tables that Xen sees change.
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def suspend(self) -> None:
        """Come to a consistent point, at which the vcpus stop."""
        state = self.guest.state
        if state is not None:
            self.guest.row(STATE_PFN)
            state[Word.NR_SUSPENDS] += 1

    def wake(self) -> None:
        """The vcpus go on, here or on another host.

        :raises XsaveError: the guest does not find what it needs to run.
        """

    def give_up(self, pfns: Entries) -> None:
        """Return memory to the host: the balloon grows."""
        self.guest.depopulate(pfns)

    def take_back(self, pfns: Entries) -> None:
        """Ask the host for memory: the balloon shrinks."""
        self.guest.populate(pfns)

    def churn(self) -> None:
        """Programs come and go, and page tables with them."""

    def settle(self) -> None:
        """Finish changes of page tables that were begun."""


def find_kernel(guest: Guest) -> Kernel:
    """The kernel of a guest that was restored, by what stands in its memory. One that was
    not made here, such as a real one, stands still: only what every guest does when it is
    suspended is done for it."""
    if guest.kind != "pv":
        return Kernel(guest)
    from .pv_kernel import PvKernel, StrangePvKernel

    return StrangePvKernel(guest) if guest.state is None else PvKernel(guest)
