"""What can go wrong beside what xsave says."""

from __future__ import annotations

from xsave import UsageError


class NotForDrgnError(UsageError):
    """The image can be read, and drgn could make nothing of it."""
