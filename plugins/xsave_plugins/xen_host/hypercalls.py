"""Asking the hypervisor: buffers that it may write to, and calls with their errors."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from types import TracebackType
from typing import Any

from xsave import XsaveError

from . import abi
from .libraries import Libraries


class HypercallError(XsaveError):
    """Xen refused.

    :ivar errno: its reason.
    """

    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"Xen refused {what}: {os.strerror(number)}")
        self.errno = number


class HypercallBuffer:
    """Memory that stays where it is while Xen writes to it. A context manager.

    :ivar address: for Xen; :ivar view: its bytes, of no use after :meth:`close`.
    """

    def __init__(self, hypercalls: Hypercalls, size_bytes: int) -> None:
        self._nr_pages = max(1, -(-size_bytes // abi.PAGE_BYTES))
        self._hypercalls = hypercalls
        self.address = hypercalls.allocate(self._nr_pages)
        self.size_bytes = self._nr_pages * abi.PAGE_BYTES
        found = (ctypes.c_char * self.size_bytes).from_address(self.address)
        self.view = memoryview(found).cast("B")

    def __enter__(self) -> HypercallBuffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        if self.address:
            address, self.address = self.address, 0
            self._hypercalls.free(address, self._nr_pages)


class Hypercalls:
    """A connection to the hypervisor, used by one thread.

    :ivar version: Xen's own, such as ``4.17``.
    """

    def __init__(self, libraries: Libraries) -> None:
        self._call = libraries.call
        ctypes.set_errno(0)
        self._handle: int | None = self._call.xencall_open(None, 0)
        if not self._handle:
            reason = os.strerror(ctypes.get_errno())
            raise XsaveError(f"/dev/xen/privcmd: {reason}: xen: addresses need root in dom0")
        try:
            self._control = HypercallBuffer(self, abi.PAGE_BYTES)
            number = self._checked(
                "the question for its version",
                self._call.xencall2(self._handle, abi.XEN_VERSION, abi.XENVER_VERSION, 0),
            )
            self.version = f"{number >> 16}.{number & 0xFFFF}"
            self._interface = self._find_interface()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle:
            self._call.xencall_close(handle)

    # -- memory for Xen ----------------------------------------------------------------

    def allocate(self, nr_pages: int) -> int:
        address = self._call.xencall_alloc_buffer_pages(self._handle, nr_pages)
        if not address:
            raise XsaveError(f"no memory for a hypercall buffer of {nr_pages} pages")
        return int(address)

    def free(self, address: int, nr_pages: int) -> None:
        if self._handle:
            self._call.xencall_free_buffer_pages(self._handle, address, nr_pages)

    def buffer(self, size_bytes: int) -> HypercallBuffer:
        return HypercallBuffer(self, size_bytes)

    # -- calls -------------------------------------------------------------------------

    def domctl(self, what: str, command: int, domid: int, body: bytes = b"") -> memoryview:
        """One domain control operation.

        :param what: it is, for the message.
        :param body: in the layout of the command.
        :returns: the body as Xen left it, valid until the next call.
        :raises HypercallError: Xen refused.
        """
        found = self._try_domctl(command, self._interface, domid, body)
        self._checked(f"{what} of domain {domid}", found)
        return self.control_body

    @property
    def control_body(self) -> memoryview:
        """Of the last domain control operation, also of one that was refused."""
        return self._control.view[abi.DOMCTL_BODY :]

    def _try_domctl(self, command: int, interface: int, domid: int, body: bytes) -> int:
        view = self._control.view
        view[:] = bytes(len(view))
        abi.DOMCTL_HEADER.pack_into(view, 0, command, interface, domid)
        view[abi.DOMCTL_BODY : abi.DOMCTL_BODY + len(body)] = body
        return int(self._call.xencall1(self._handle, abi.DOMCTL, self._control.address))

    def operate(
        self, what: str, call: int, command: int, layout: struct.Struct, *fields: Any
    ) -> int:
        """A call of a command and one structure: memory_op, hvm_op, sched_op.

        :returns: the result, 0 or above. The structure as Xen left it: :meth:`answer`.
        """
        layout.pack_into(self._control.view, 0, *fields)
        return self._checked(
            what, self._call.xencall2L(self._handle, call, command, self._control.address)
        )

    def answer(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The structure of the last :meth:`operate`."""
        return layout.unpack_from(self._control.view, 0)

    def ask_number(self, what: str, call: int, command: int) -> int:
        """A call of a command and nothing else."""
        return self._checked(what, self._call.xencall2L(self._handle, call, command, 0))

    def mmuext(self, what: str, operations: bytes, domid: int) -> None:
        """Page-table operations, :data:`abi.MMUEXT` after :data:`abi.MMUEXT`."""
        with self.buffer(len(operations) + 8) as given:
            given.view[: len(operations)] = operations
            count = len(operations) // abi.MMUEXT.size
            done = given.address + given.size_bytes - 8
            self._checked(
                what,
                self._call.xencall4(self._handle, abi.MMUEXT_OP, given.address, count, done, domid),
            )

    def _checked(self, what: str, result: int) -> int:
        if result < 0:
            raise HypercallError(what, ctypes.get_errno())
        return result

    def _find_interface(self) -> int:
        """The version of the domain control interface that this hypervisor speaks: it
        refuses every other one, which makes trying safe."""
        for interface in abi.DOMCTL_VERSIONS:
            if self._try_domctl(abi.GET_DOMAIN_INFO, interface, 0, b"") >= 0:
                return interface
            if (number := ctypes.get_errno()) != errno.EACCES:
                raise HypercallError("control over domains (is this dom0, and root?)", number)
        known = ", ".join(f"{name} ({number:#x})" for number, name in abi.DOMCTL_VERSIONS.items())
        raise XsaveError(
            f"Xen {self.version} has a domain control interface that this xsave does not know; "
            f"known are those of {known}"
        )
