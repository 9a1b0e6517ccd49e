"""What libxl, the usual toolstack, knows of a domain beyond Xen: names, kinds, configuration."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from xsave import UsageError, XsaveError

if TYPE_CHECKING:
    from uuid import UUID

    from .xenstore import Xenstore

USERDATA = Path("/var/lib/xen")
MAX_CONFIG = 1 << 20
KINDS = ("pv", "pvh", "hvm")


def find_domid(store: Xenstore, name: str) -> int:
    """:param name: or a number.
    :raises UsageError: no domain, or more than one, is named so.
    """
    if name.isascii() and name.isdigit() and len(name) <= 5:
        return int(name)
    names = {
        domid: store.read(f"/local/domain/{domid}/name") for domid in store.list("/local/domain")
    }
    found = [domid for domid, known in names.items() if known == name and domid.isdigit()]
    if len(found) != 1:
        known = ", ".join(sorted(filter(None, names.values()))) or "none"
        raise UsageError(
            f"xen: {len(found) or 'no'} domains are named {name!r}; there are: {known}"
        )
    return int(found[0])


def domain_name(store: Xenstore, domid: int) -> str:
    return store.read(f"/local/domain/{domid}/name") or f"domain-{domid}"


def domain_kind(store: Xenstore, domid: int, *, is_hvm: bool) -> str:
    """pv, pvh or hvm; Xen itself does not tell the last two apart."""
    told = store.read(f"/libxl/{domid}/type")
    return told if told in KINDS else "hvm" if is_hvm else "pv"


class XlState:
    """The ``xl`` facet: what an xl save file says of the guest before its stream."""

    def __init__(self, domid: int, uuid: UUID, folder: Path = USERDATA) -> None:
        self._file = folder / f"userdata-d.{domid}.{uuid}.libxl-json"

    def config(self) -> bytes:
        """JSON, as libxl keeps it of each domain that it made; b"" where it did not."""
        try:
            found = self._file.read_bytes()
        except OSError:
            return b""
        return found if len(found) <= MAX_CONFIG else b""


def destroy(domid: int) -> None:
    """With its devices and its device model, which the hypervisor does not know of.

    :raises XsaveError: it cannot be.
    """
    try:
        done = subprocess.run(
            ["xl", "destroy", str(domid)], capture_output=True, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as error:
        raise XsaveError(f"xl destroy {domid}: {error.strerror}") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise XsaveError(f"xl destroy {domid} failed: {said}")
