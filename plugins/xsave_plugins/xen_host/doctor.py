"""What ``xsave doctor`` says of this machine as a Xen host."""

from __future__ import annotations

from collections.abc import Callable

from xsave import XsaveError


def look(report: Callable[[str, bool, str], None]) -> None:
    """Not to be a Xen host is no fault."""
    from .connection import Connection

    try:
        connection = Connection()
    except XsaveError as error:
        report("Xen host", True, f"none: {error}")
        return
    try:
        report("Xen host", True, f"Xen {connection.hypercalls.version}")
    finally:
        connection.close()
