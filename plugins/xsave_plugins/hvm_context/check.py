"""Rules for the whole stream of an HVM or PVH guest.

Xen's restorer applies the context when the stream ends, or when it breaks off after a
checkpoint: it must have come by then. Parameters are applied when they come, and a
stream without them is not refused (Xen 4.6 to 4.8 could write an empty record). A round
after a checkpoint may repeat both, and the later ones count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xsave import FieldError, StreamError

from .context import HvmContext

if TYPE_CHECKING:
    from xsave import PageBatch, Record

CONTEXT = "xen.hvm.context"
PARAMS = "xen.hvm.params"
END = "xen.libxc.end"
CHECKPOINT = "xen.libxc.checkpoint"


class HvmCheck:
    """For one stream; remembers two facts."""

    def __init__(self) -> None:
        self._has_context = False
        self._has_ended = False

    def see_record(self, record: Record, state: Any) -> None:
        name = record.name
        if name in (CONTEXT, PARAMS) and self._has_ended:
            raise FieldError(field="place", expected=f"before {END}", got="after it")
        if name == CONTEXT and isinstance(state, HvmContext):
            from .load_rules import check_save_record

            for one in state.save_records:
                check_save_record(one)
            self._has_context = True
        elif name in (END, CHECKPOINT):
            if not self._has_context:
                raise FieldError(field="place", expected=f"after {CONTEXT}", got=f"no {CONTEXT}")
            self._has_ended = name == END

    def see_pages(self, batch: PageBatch) -> None:
        """Nothing: HVM pages do not depend on each other, nor on records."""

    def finish(self) -> None:
        if not self._has_context:
            raise StreamError(f"the stream of an HVM guest ends without {CONTEXT}")
