"""What is this file? Named by its beginning, and by its headers where it can be read."""

from __future__ import annotations

from typing import Any

from attrs import field

from ..errors import UnrecognisedError, XsaveError
from ..format import Format, PageMode
from ..io.source import open_source
from ..manager import PluginManager, build_manager
from ..record import ImageInfo
from ..value_class import define
from ..workers import Workers
from .stream import claims, read_options, unrecognised, unwrap


@define
class Identification:
    """:ivar name: of the format.
    :ivar summary: one line about it; of one that is not read, why.
    :ivar why: by what it was recognised.
    :ivar codecs: what the input is compressed with as a whole, from the outside.
    :ivar readable: whether it can be read here; :ivar writable: whether it can be written.
    :ivar info: what its headers say; None where it cannot be read.
    :ivar fault: what is wrong with its headers; "" if nothing.
    :ivar others: names of further formats that claim it, all of them equally.
    """

    name: str
    summary: str
    why: str
    codecs: list[str] = field(factory=list)
    readable: bool = False
    writable: bool = False
    info: ImageInfo | None = None
    fault: str = ""
    others: list[str] = field(factory=list)


def identify(source: Any, *, manager: PluginManager | None = None) -> Identification:
    """Name the format of an input, also of one that is not read here.

    Takes off what it is compressed with, and reads no further than the headers.

    :param source: as for :func:`xsave.run`.
    :raises UnrecognisedError: no plugin knows it.
    """
    manager = manager or build_manager()
    with open_source(source) as opened, Workers(1) as pool:
        head, inner, codecs = unwrap(opened, manager)
        found = _best(claims(head, manager))
        if not found:
            error = unrecognised(head, manager)
            within = f" (in {', in '.join(reversed(codecs))})" if codecs else ""
            raise UnrecognisedError(f"{error}{within}")
        format_ = found[0]
        known = Identification(
            format_.name, format_.summary, format_.explain(head), codecs, format_.readable,
            format_.writable, others=[other.name for other in found[1:]],
        )  # fmt: skip
        if format_.readable:
            options = read_options(PageMode.SKIP, manager, pool)
            try:
                known.info = format_.reader(inner, options).info
            except XsaveError as error:
                known.fault = str(error)
    return known


def _best(found: list[Format]) -> list[Format]:
    """Those that are read, if any; one that is only known by sight says less."""
    return [format_ for format_ in found if format_.readable] or found
