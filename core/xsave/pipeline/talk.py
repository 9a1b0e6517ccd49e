"""What two ends of a migration say to each other, over a link.

Each message is a map with its ``kind``; everything else in it is looked at field by field.
What is out of place, of another shape, or does not come in time ends in one error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..errors import (
    EXIT_BAD_IMAGE,
    EXIT_FAILED,
    EXIT_NOT_AUTHENTIC,
    EXIT_PLUGIN,
    EXIT_TRY_AGAIN,
    EXIT_USAGE,
    FieldError,
    LinkError,
    OtherEndError,
    PeerError,
    XsaveError,
)
from ..negotiation import (
    PROTOCOL,
    TEXT_MAX,
    Fields,
    GuestOffer,
    HostDescription,
    Notice,
    Refusal,
    host_as_data,
    host_from_data,
    offer_as_data,
    offer_from_data,
)
from ..record import GuestType, ImageInfo
from .negotiate import Examination

if TYPE_CHECKING:
    from ..link.link import Link
    from ..progress import RunReport

ID_BYTES = 16
_TOLD_CODES = frozenset({
    EXIT_FAILED, EXIT_USAGE, EXIT_BAD_IMAGE, EXIT_NOT_AUTHENTIC, EXIT_PLUGIN, EXIT_TRY_AGAIN,
})  # fmt: skip


class Talk:
    """One link, spoken over.

    :param answer_s: how long an answer is waited for, where nothing else is said.
    """

    def __init__(self, link: Link, answer_s: float) -> None:
        self.link = link
        self.peer = link.peer
        self.answer_s = answer_s

    def say(self, kind: str, **fields: Any) -> None:
        """:raises LinkError: nothing can be said any more."""
        self.link.send({"kind": kind, **fields})

    def try_to_say(self, kind: str, **fields: Any) -> None:
        """As far as somebody listens: nothing hangs on it."""
        with suppress(LinkError):
            self.say(kind, **fields)

    def hear(self, *kinds: str, timeout_s: float | None = None) -> tuple[str, Fields]:
        """The next message, which is one of these.

        :raises PeerError: it is another. :raises LinkError: none comes.
        """
        waits_s = self.answer_s if timeout_s is None else timeout_s
        fields = Fields(self.link.receive(waits_s), "message")
        try:
            kind = fields.text("kind")
        except FieldError as error:
            raise self.wrong(str(error)) from error
        if kind not in kinds:
            raise PeerError(
                peer=self.peer, what="message", expected=" or ".join(kinds), got=repr(kind)[:80]
            )
        return kind, fields

    def wrong(self, reason: str) -> PeerError:
        return PeerError(peer=self.peer, what="message", expected="another", got=reason)


def check_fields(talk: Talk) -> _AsPeerError:
    """Within it, a field that is not what it should be is the peer's error."""
    return _AsPeerError(talk.peer)


class _AsPeerError:
    def __init__(self, peer: str) -> None:
        self._peer = peer

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        if isinstance(error, FieldError):
            raise PeerError(
                peer=self._peer, what=error.field, expected=error.expected, got=error.got
            ) from error


# -- saying hello --------------------------------------------------------------------------


def say_hello(talk: Talk, purpose: str, migration: bytes, offer: GuestOffer) -> None:
    """:param purpose: ``migrate``, or ``preflight`` for who only wants to know."""
    talk.say(
        "hello", protocol=list(PROTOCOL), purpose=purpose, id=migration, guest=offer_as_data(offer)
    )


def read_hello(fields: Fields) -> tuple[str, bytes, tuple[int, int], GuestOffer]:
    """:returns: purpose, id, versions of the protocol, offer. :raises FieldError: it is wrong."""
    purpose = fields.text("purpose")
    if purpose not in ("migrate", "preflight"):
        raise FieldError(field="purpose", expected="migrate or preflight", got=repr(purpose))
    return (
        purpose,
        fields.octets("id", ID_BYTES),
        fields.range("protocol"),
        offer_from_data(fields.raw("guest")),
    )


def answer_hello(
    talk: Talk, protocol: int | None, host: HostDescription, found: Examination
) -> None:
    talk.say(
        "hello",
        protocol=protocol or 0,
        host=host_as_data(host),
        refusals=[[one.name, one.reason, one.remedy] for one in found.refusals],
        notices=[
            [one.name, one.text, [list(pair) for pair in one.without]] for one in found.notices
        ],
    )


def read_answer(fields: Fields) -> tuple[int, HostDescription, Examination]:
    """:raises FieldError: it is wrong."""
    refusals = [Refusal(*_texts(one, 3, "refusals")) for one in _items(fields, "refusals")]
    notices = []
    for one in _items(fields, "notices"):
        name, text = _texts(one[:2] if isinstance(one, list) else one, 2, "notices")
        pairs = one[2] if len(one) == 3 else None
        notices.append(Notice(name, text, _pairs(pairs)))
    return (
        fields.number("protocol"),
        host_from_data(fields.raw("host")),
        Examination(tuple(refusals), tuple(notices)),
    )


def _items(fields: Fields, name: str) -> list[Any]:
    value = fields.raw(name)
    if not isinstance(value, list) or len(value) > 256:
        raise FieldError(field=name, expected="a list of at most 256", got=repr(value)[:80])
    return value


def _texts(value: Any, count: int, name: str) -> Sequence[str]:
    if (
        not isinstance(value, list) or len(value) != count
        or not all(isinstance(one, str) and len(one) <= TEXT_MAX for one in value)
    ):  # fmt: skip
        raise FieldError(field=name, expected=f"{count} texts", got=repr(value)[:80])
    return value


def _pairs(value: Any) -> tuple[tuple[str, Any], ...]:
    if not isinstance(value, list) or len(value) > 256:
        raise FieldError(field="notices", expected="pairs", got=repr(value)[:80])
    for pair in value:
        if (
            not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str)
            or not (pair[1] is None or isinstance(pair[1], int | str))
        ):  # fmt: skip
            raise FieldError(field="notices", expected="record and key", got=repr(pair)[:80])
    return tuple((name, key) for name, key in value)


# -- what the guest is, and that everything has come ---------------------------------------


def info_as_data(info: ImageInfo) -> dict[str, Any]:
    from ..present import to_json

    return {
        "guest_type": info.guest_type.value,
        "page_size": info.page_size,
        "xen_version": info.xen_version,
        "word_size": info.word_size,
        "details": to_json(dict(info.details)),
    }


def info_from_data(data: Any) -> ImageInfo:
    """:raises FieldError: it is wrong."""
    from ..negotiation import check_plain

    fields = Fields(data, "info")
    kind = fields.text("guest_type")
    if kind not in {one.value for one in GuestType}:
        raise FieldError(field="guest_type", expected="one that is known", got=repr(kind)[:80])
    details = fields.raw("details")
    check_plain(details, "details")
    return ImageInfo(
        format="domain",
        guest_type=GuestType(kind),
        page_size=fields.number("page_size"),
        xen_version=fields.text("xen_version"),
        word_size=fields.number("word_size"),
        details=Fields(details, "details").as_map(),
    )


def counts_as_data(report: RunReport, stream_bytes: int) -> dict[str, Any]:
    """What went through a stream, as this end counted it."""
    records = {count.name: count.count for count in report.records.values() if count.body_bytes}
    return {
        "records": records,
        "nr_pages": report.nr_pages,
        "nr_pfns": report.nr_pfns,
        "stream_bytes": stream_bytes,
    }


def differing_counts(ours: Mapping[str, Any], theirs: Any) -> str:
    """:returns: the first count that is not the same, in words; "" if all are."""
    fields = Fields(theirs, "counts")
    for name, count in ours.items():
        got: Any = fields.map(name, int) if isinstance(count, dict) else fields.number(name)
        if got != count:
            return f"{name}: {_short(count)} here, {_short(got)} there"
    return ""


def _short(count: Any) -> str:
    return str(count) if isinstance(count, int) else f"{len(count)} kinds"


# -- what went wrong ------------------------------------------------------------------------


def error_as_data(error: BaseException | None) -> dict[str, Any]:
    """One sentence and its exit code, for the other end."""
    if isinstance(error, XsaveError):
        return {"reason": " ".join(str(error).split())[:TEXT_MAX], "code": error.exit_code}
    if isinstance(error, MemoryError):
        return {"reason": "out of memory", "code": EXIT_FAILED}
    if error is None or not isinstance(error, Exception):
        return {"reason": "it was asked to stop", "code": EXIT_FAILED}
    reason = f"a bug in xsave or in a plugin there: {type(error).__name__}: {error}"
    return {"reason": " ".join(reason.split())[:TEXT_MAX], "code": EXIT_FAILED}


def told_error(talk: Talk, fields: Fields) -> OtherEndError:
    """What the other end said about its failure."""
    with check_fields(talk):
        code = fields.number("code")
        reason = fields.text("reason")
        return OtherEndError(
            where=talk.peer, reason=reason,
            code=code if code in _TOLD_CODES else EXIT_FAILED,
        )  # fmt: skip
    raise AssertionError  # never: what is wrong was raised
