"""SOURCE and DEST: what may be named there."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import UsageError
from ..manager import PluginManager

# "xen:guest7", but not "./a:b", "2024-01:a" or "/dev/disk/by-id:7"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def image_address(address: str, manager: PluginManager) -> str:
    """A path or ``-``, as it is.

    :raises UsageError: it names a domain instead, or nothing that is known.
    """
    if not names_domain(address, manager):
        return address
    scheme = address.partition(":")[0]
    raise UsageError(
        f"{address} is a domain of backend {scheme}; here only images are taken: "
        f"files, pipes and - (xsave run {scheme}:... FILE makes one)"
    )


def any_address(address: str, manager: PluginManager) -> str:
    """A path, ``-`` or a domain, as it is.

    :raises UsageError: it looks like a domain, and no such backend is there.
    """
    names_domain(address, manager)
    return address


def names_domain(address: str, manager: PluginManager) -> bool:
    """Whether it is a domain's address; an existing file is a file, whatever its name.

    :raises UsageError: it looks like one, and no such backend is there.
    """
    match = _SCHEME.match(address)
    if match is None or Path(address).exists():
        return False
    if match[1] in manager.backends.names():
        return True
    known = ", ".join(manager.backends.names()) or "none"
    raise UsageError(
        f"no domain backend is named {match[1]!r}; known: {known} "
        f"(for a file of that name write ./{address})"
    )
