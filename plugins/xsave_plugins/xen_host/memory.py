"""A domain's memory, mapped into this process: many frames at a time."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from xsave import XsaveError

from . import abi
from .libraries import Libraries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Entries, Pages

    Errors = NDArray[np.int32]

# The highest number that a page table's entry has room for, and no frame of anybody's. The kernel
# cuts off what is above, which would give the page of another number.
NO_GFN = np.uint64((1 << 40) - 1)
READ = mmap.PROT_READ
READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE


class ForeignMemory:
    """Mappings of other domains' frames. A *gfn* is a frame number as that domain's own page
    tables have it: of a PV guest an mfn, else a pfn."""

    def __init__(self, libraries: Libraries) -> None:
        self._library = libraries.memory
        ctypes.set_errno(0)
        self._handle: int | None = self._library.xenforeignmemory_open(None, 0)
        if not self._handle:
            raise XsaveError(f"Xen's foreign memory: {os.strerror(ctypes.get_errno())}")

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle:
            self._library.xenforeignmemory_close(handle)

    @contextmanager
    def mapped(
        self, domid: int, gfns: Entries, *, write: bool = False
    ) -> Iterator[tuple[Pages, Errors]]:
        """Some frames, as long as the context lasts; the view is of no use after it.

        :param gfns: (n,) u64, n above 0.
        :returns: (n, PAGE_BYTES) u8, a view of the domain's memory: read-only unless
            ``write``; and (n,) i32, an errno for each frame, 0 for those that are there. To
            touch another one is a bus error.
        :raises XsaveError: nothing could be mapped.
        """
        pages, errors, address = self._map(domid, gfns, write=write)
        try:
            yield pages, errors
        finally:
            self._library.xenforeignmemory_unmap(self._handle, address, len(gfns))

    def map_for_good(self, domid: int, gfns: Entries) -> Pages:
        """As :meth:`mapped`, readable, until this process ends or :meth:`unmap`.

        :raises XsaveError: one of the frames is not there.
        """
        pages, errors, address = self._map(domid, gfns, write=False)
        if errors.any():
            self._library.xenforeignmemory_unmap(self._handle, address, len(gfns))
            first = int(np.flatnonzero(errors)[0])
            raise XsaveError(
                f"domain {domid}: frame {int(gfns[first]):#x} cannot be mapped: "
                f"{os.strerror(abs(int(errors[first])))}"
            )
        return pages

    def map_loosely(self, domid: int, gfns: Entries) -> tuple[Pages, Errors]:
        """As :meth:`map_for_good`, with an errno for each frame that is not there."""
        pages, errors, _ = self._map(domid, gfns, write=False)
        return pages, errors

    def unmap(self, pages: Pages) -> None:
        """What the two above gave; nothing may look at it any more."""
        self._library.xenforeignmemory_unmap(self._handle, pages.ctypes.data, len(pages))

    def _map(self, domid: int, gfns: Entries, *, write: bool) -> tuple[Pages, Errors, int]:
        frames = np.minimum(gfns, NO_GFN)
        errors = np.zeros(len(frames), np.int32)
        ctypes.set_errno(0)
        address = self._library.xenforeignmemory_map(
            self._handle, domid, READ_WRITE if write else READ, len(frames), frames.ctypes.data,
            errors.ctypes.data,
        )  # fmt: skip
        if not address:
            raise XsaveError(
                f"domain {domid}: {len(frames)} frames from {int(frames[0]):#x} cannot be mapped: "
                f"{os.strerror(ctypes.get_errno())}"
            )
        return view_at(address, len(frames), write=write), errors, address

    @contextmanager
    def grant_table(self, domid: int) -> Iterator[memoryview]:
        """The first page of a domain's grant table, to write to."""
        place = ctypes.c_void_p()
        ctypes.set_errno(0)
        resource = self._library.xenforeignmemory_map_resource(
            self._handle, domid, abi.RESOURCE_GRANT_TABLE, abi.GRANT_TABLE_SHARED, 0, 1,
            ctypes.byref(place), READ_WRITE, 0,
        )  # fmt: skip
        if not resource or not place.value:
            raise XsaveError(
                f"domain {domid}: its grant table cannot be mapped: "
                f"{os.strerror(ctypes.get_errno())}"
            )
        try:
            yield view_at(place.value, 1, write=True).reshape(-1).data
        finally:
            self._library.xenforeignmemory_unmap_resource(self._handle, resource)


def view_at(address: int, nr_pages: int, *, write: bool) -> Pages:
    """(n, PAGE_BYTES) u8 of this process's memory."""
    # One type for each size: ctypes keeps them for ever, so sizes are rounded up. What is
    # behind the pages is never looked at.
    size = 1 << (nr_pages * abi.PAGE_BYTES - 1).bit_length()
    whole: Any = (ctypes.c_uint8 * size).from_address(address)
    pages = np.frombuffer(whole, np.uint8, nr_pages * abi.PAGE_BYTES)
    pages.flags.writeable = write
    return pages.reshape(nr_pages, abi.PAGE_BYTES)
