"""xen.xend.config: a guest's configuration as xend wrote it before the stream.

Layout: the text of one s-expression, without a NUL. Optional, as a guest's state is whole
without it: only xend takes it back, and no format that is written has a place for it but ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import field

from xsave import Buffer, Phase, RecordHandler, frozen

from .sexpr import Expression, parse

if TYPE_CHECKING:
    from xsave import Domain


@frozen
class XendConfig:
    """:ivar text: as it came.
    :ivar expression: lists of text and lists.
    """

    text: bytes = field(repr=False)
    expression: Expression


class XendConfigHandler(RecordHandler[XendConfig]):
    name = "xen.xend.config"
    summary = "a guest's configuration, of xend's files"
    mandatory = False
    phase = Phase.HEADER

    def decode(self, body: memoryview) -> XendConfig:
        text = bytes(body)
        return XendConfig(text, parse(text))

    def encode(self, state: XendConfig) -> Sequence[Buffer]:
        return (state.text,)

    def apply(self, domain: Domain, state: XendConfig) -> None:
        """A domain being restored has been built from what the user said."""

    def describe(self, state: XendConfig, seen: Mapping[str, Any]) -> Any:
        return {"config": as_json(state.expression)}


def as_json(expression: Expression) -> Any:
    """``(domain (name a) (device (vif)))`` as the lists that it is, with ``(name value)`` of
    two words as an object of one member, which is easier to look through."""
    return [
        item if not isinstance(item, list)
        else {item[0]: item[1]} if len(item) == 2 and all(isinstance(i, str) for i in item)
        else as_json(item)
        for item in expression
    ]  # fmt: skip
