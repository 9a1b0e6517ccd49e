"""The releases of Debian that hosts are built from, and what each brings along."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError


@dataclass(frozen=True)
class Release:
    """:ivar python: version of dom0's interpreter, whose wheels are fetched.
    :ivar packages: that only this one has: libvirt, half a minute and 100 MB of 1000.
    :ivar logs_pv: whether its Xen logs what a PV guest writes, without which no PV guest is saved
        while it runs, nor moved from there by anybody. It takes shadow paging, built in or not.
    """

    suite: str
    xen: str
    python: str
    packages: tuple[str, ...] = ()
    logs_pv: bool = True


LIBVIRT = ("libvirt-daemon-system", "libvirt-daemon-driver-xen", "libvirt-clients")
RELEASES = {
    release.suite: release
    for release in (
        Release("bookworm", "4.17", "3.11", LIBVIRT),
        Release("trixie", "4.20", "3.13", (*LIBVIRT, "libvirt-daemon-lock"), logs_pv=False),
    )
}


def find_release(suite: str) -> Release:
    if suite not in RELEASES:
        raise LabError(f"no release {suite!r}; known: {', '.join(RELEASES)}")
    return RELEASES[suite]


def chosen_releases() -> list[Release]:
    """Those in ``$XSAVE_XENLAB_RELEASE``, one or two."""
    names = os.environ.get("XSAVE_XENLAB_RELEASE", "").split() or ["bookworm"]
    return [find_release(suite) for suite in names]


def cache_folder() -> Path:
    """``$XSAVE_XENLAB``, or a folder in the user's cache: 3 GB for each release."""
    if given := os.environ.get("XSAVE_XENLAB"):
        return Path(given).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "xsave" / "xenlab"
