"""VMCOREINFO: what a Linux guest says of itself for those who look at its memory.

A kernel with crash-dump support keeps a complete ELF note at the start of a page of its own:
sizes, the name VMCOREINFO, and lines of text from ``OSRELEASE=`` on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import elf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Pages

_NAME = b"VMCOREINFO\0\0"  # with its padding
_TEXT = b"OSRELEASE="
_HEAD = elf.NoteHeader.SIZE
_FORMAT = b"OSRELEASE=%s"  # the kernel's own way of saying it: not a note
_KEPT_MAX = 16


class VmcoreinfoFinder:
    """Looks at each page as it passes; of pages that come again the last contents count."""

    def __init__(self) -> None:
        self._found: dict[int, bytes] = {}

    def see(self, pfns: NDArray[np.int64], pages: Pages) -> None:
        """:param pfns: (n,); :param pages: (n, 4096) u8."""
        for pfn in self._found.keys() & set(pfns.tolist()) if self._found else ():
            del self._found[pfn]
        start = _HEAD + len(_NAME)
        wanted = np.frombuffer(_NAME + _TEXT, np.uint8)
        # the first word of a name is looked at first: one comparison a page
        likely = np.flatnonzero(pages[:, _HEAD] == wanted[0])
        rows = likely[(pages[likely, _HEAD : start + len(_TEXT)] == wanted).all(axis=1)]
        for row in rows.tolist():
            page = pages[row].tobytes()
            size = elf.NoteHeader.decode_at(page, 0).descsz
            text = page[start : start + size]
            if len(text) == size and not text.startswith(_FORMAT) and len(self._found) < _KEPT_MAX:
                self._found[int(pfns[row])] = text

    def found(self, present: NDArray[np.bool_]) -> bytes:
        """The longest text in a page that is there in the end; b"" if none is."""
        texts = [text for pfn, text in self._found.items() if present[pfn]]
        return max(texts, key=len, default=b"")
