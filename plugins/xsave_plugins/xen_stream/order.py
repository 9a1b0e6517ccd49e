"""The order that libxc's restorer insists on, for reading and for writing.

Source: libxc migration stream specification, revision 3, and the restorers of Xen 4.6 to
4.22. Rules that need a record's contents are the checks of the plugins that know it.
"""

from __future__ import annotations

from xsave import GuestType, RecordError

from . import framing as f

_NEEDS_STATIC_DATA_END = frozenset({"xen.pv.p2m_frames", *f.PAGE_DATA_NAMES.values()})


class LibxcOrder:
    """:param version: of the stream; in version 2 the end of static data is inferred
    before the first record that needs it.
    """

    def __init__(self, version: int, guest_type: GuestType) -> None:
        self.version = version
        self.guest_type = guest_type
        self.static_data_ended = False
        self.ended = False

    def see(self, name: str, offset: int) -> None:
        """The next record of the libxc layer.

        :raises RecordError: it may not stand here.
        """
        if self.ended:
            raise RecordError(
                record=name, offset=offset, reason="expected nothing after END, got it"
            )
        if name == f.STATIC_DATA_END:
            if self.static_data_ended:
                raise RecordError(
                    record=name, offset=offset,
                    reason="expected once, before the first page, got it again or too late",
                )  # fmt: skip
            self.static_data_ended = True
        elif self.needs_end_before(name) and not self.static_data_ended:
            if self.version >= 3:
                raise RecordError(
                    record=name, offset=offset,
                    reason="expected STATIC_DATA_END before it (stream version 3), got none",
                )  # fmt: skip
            self.static_data_ended = True
        elif name == f.LIBXC_END:
            self.ended = True

    def needs_end_before(self, name: str) -> bool:
        """Whether static data must have ended when this record comes."""
        return name in _NEEDS_STATIC_DATA_END
