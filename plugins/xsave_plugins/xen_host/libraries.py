"""Xen's libraries, through ctypes: only those whose interface does not change.

What they cannot do is asked of the hypervisor with libxencall, in the layouts of ``abi.py``.
So libxenctrl and libxenguest, which change with each release, are not needed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_int, c_long, c_size_t, c_uint, c_uint32, c_uint64, c_ulong, c_void_p
from pathlib import Path
from typing import Any

from xsave import XsaveError, frozen

# What the libraries speak through, whichever is there; without any, they complain on their own.
DEVICES = (Path("/dev/xen/hypercall"), Path("/dev/xen/privcmd"), Path("/proc/xen/privcmd"))
XENCALL, FOREIGNMEMORY = "libxencall.so.1", "libxenforeignmemory.so.1"
PACKAGES = {XENCALL: "libxencall1", FOREIGNMEMORY: "libxenforeignmemory1"}  # Debian's

# Function to the type of its result and those of its arguments.
_CALL = (c_void_p, c_uint)
PROTOTYPES: dict[str, dict[str, tuple[Any, tuple[Any, ...]]]] = {
    XENCALL: {
        "xencall_open": (c_void_p, (c_void_p, c_uint)),
        "xencall_close": (c_int, (c_void_p,)),
        "xencall1": (c_int, (*_CALL, c_uint64)),
        "xencall2": (c_int, (*_CALL, c_uint64, c_uint64)),
        "xencall4": (c_int, (*_CALL, c_uint64, c_uint64, c_uint64, c_uint64)),
        "xencall2L": (c_long, (*_CALL, c_uint64, c_uint64)),
        "xencall_alloc_buffer_pages": (c_void_p, (c_void_p, c_size_t)),
        "xencall_free_buffer_pages": (None, (c_void_p, c_void_p, c_size_t)),
    },
    FOREIGNMEMORY: {
        "xenforeignmemory_open": (c_void_p, (c_void_p, c_uint)),
        "xenforeignmemory_close": (c_int, (c_void_p,)),
        "xenforeignmemory_map": (
            c_void_p, (c_void_p, c_uint32, c_int, c_size_t, c_void_p, c_void_p),
        ),
        "xenforeignmemory_unmap": (c_int, (c_void_p, c_void_p, c_size_t)),
        "xenforeignmemory_map_resource": (
            c_void_p,
            (c_void_p, c_uint, c_uint, c_uint, c_ulong, c_ulong, POINTER(c_void_p), c_int, c_int),
        ),
        "xenforeignmemory_unmap_resource": (c_int, (c_void_p, c_void_p)),
    },
}  # fmt: skip


@frozen
class Libraries:
    """:ivar call: libxencall; :ivar memory: libxenforeignmemory. Objects with the functions
    above; in tests, others than real libraries.
    """

    call: Any
    memory: Any


def load_libraries(devices: Sequence[Path] = DEVICES) -> Libraries:
    """:raises XsaveError: this is no Xen host, or one is not here; says what to install."""
    if not any(device.exists() for device in devices):
        raise XsaveError(
            "no Xen here: xen: addresses work in dom0 of a Xen host (/dev/xen/privcmd)"
        )
    return Libraries(_load(XENCALL), _load(FOREIGNMEMORY))


def _load(name: str) -> Any:
    try:
        library = ctypes.CDLL(name, use_errno=True)
    except OSError:
        raise XsaveError(
            f"{name} is not on this machine: xen: addresses need Xen's libraries "
            f"(Debian: {PACKAGES[name]}), and a dom0 to use them in"
        ) from None
    for function, (result, arguments) in PROTOTYPES[name].items():
        try:
            found = getattr(library, function)
        except AttributeError:
            raise XsaveError(f"{name} has no {function}: it is older than Xen 4.16's") from None
        found.restype = result
        found.argtypes = arguments
    return library
