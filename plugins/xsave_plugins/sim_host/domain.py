"""A simulated guest as the pipeline sees it: the contract, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from xsave import Domain, DomainInfo, UsageError

from .guest import READ_S

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xsave import Entries, Pages

    from .guest import Guest

    Flags = NDArray[np.bool_]

XEN_VERSION = "4.17"  # whose records and rules the simulation follows


class SimDomain(Domain):
    """:ivar guest: for tests, and for what the contract has no word for."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    @property
    def info(self) -> DomainInfo:  # type: ignore[override]  # only looked at: guests grow
        guest = self.guest
        return DomainInfo(
            name=guest.name,
            guest_type=guest.guest_type,
            p2m_size=guest.p2m_size,
            nr_vcpus=guest.nr_vcpus,
            xen_version=XEN_VERSION,
            details=guest.details,
        )

    def pause(self) -> None:
        self.guest.pause()

    def resume(self) -> None:
        self.guest.resume()

    def destroy(self) -> None:
        self.guest.destroy()

    def page_types(self, pfns: Entries) -> Entries:
        return self.guest.page_types(pfns)

    def read_pages(self, pfns: Entries, out: Pages) -> Flags:
        if self.guest.clock == "reads":
            self.guest.step(READ_S)
        return self.guest.read(pfns, out)

    def populate(self, pfns: Entries) -> None:
        self.guest.populate(pfns)

    def depopulate(self, pfns: Entries) -> None:
        """Take the memory of these pfns away, of those that have any."""
        self.guest.depopulate(pfns)

    def write_pages(self, pfns: Entries, pages: Pages) -> None:
        self.guest.write(pfns, pages)

    def start_dirty_log(self) -> None:
        self.guest.start_dirty_log()

    def read_dirty_log(self, *, clean: bool) -> Flags:
        return self.guest.read_dirty_log(clean=clean)

    def stop_dirty_log(self) -> None:
        self.guest.stop_dirty_log()

    def is_at_rest(self) -> bool:
        return not self.guest.is_running

    def throttle(self, share: float) -> bool:
        if not 0 < share <= 1:
            raise UsageError(f"a share of processor time: expected above 0 to 1, got {share}")
        self.guest.share = share
        return True

    def fingerprint(self) -> Mapping[str, bytes]:
        return self.guest.fingerprint().as_digests()

    def facet(self, name: str) -> Any:
        return self.guest.facets.get(name)

    def close(self) -> None:
        """Nothing is held: the guest is the host's. If it is no more, its memory is given back
        now: there is time for it."""
        self.guest.host.scrub()
