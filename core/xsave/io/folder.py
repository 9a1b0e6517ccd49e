"""What a folder can do for the files that are written there."""

from __future__ import annotations

import os

from ..value_class import frozen
from .sink import MODE, NO_TMPFILE


@frozen
class FolderFacts:
    """:ivar error: why nothing can be written, "" if it can.
    :ivar unnamed_files: whether it knows files without a name (``O_TMPFILE``), of which
        even a killed process leaves nothing.
    :ivar free_bytes: for an ordinary user.
    """

    error: str
    unnamed_files: bool
    free_bytes: int


def examine_folder(folder: str) -> FolderFacts:
    """Try it. Leaves nothing behind."""
    try:
        room = os.statvfs(folder)
        free_bytes = room.f_bavail * room.f_frsize
        fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, MODE)
    except OSError as error:
        if error.errno in NO_TMPFILE and os.access(folder, os.W_OK | os.X_OK):
            return FolderFacts("", unnamed_files=False, free_bytes=free_bytes)
        return FolderFacts(error.strerror or str(error), unnamed_files=False, free_bytes=0)
    os.close(fd)
    return FolderFacts("", unnamed_files=True, free_bytes=free_bytes)
