"""What can go wrong, by whose turn it is to act; each class has its exit code.

=====================  ====  ==============================================
class                  exit  whose turn
=====================  ====  ==============================================
XsaveError             1     the operation failed; the message says why
UsageError             2     the caller: the request makes no sense
StreamError            3     get another image: these bytes are wrong
AuthenticityError      4     get another image: its seal does not match
PluginError            5     install, mend or choose a plugin
BrokenOffError         7     the operator: shall the standby take over?
TryAgainError          75    nobody: the condition passes by itself
LinkLostError          75    nobody: the other end may come back
SilentPeerError        75    nobody: the other end may answer later
RefusedError           8     the operator: what the refusals name as remedies
UndecidedError         9     a human, or ``xsave resolve``
CancelledError         130   nobody: it was asked to stop
=====================  ====  ==============================================

Exit code 6 (partial) is no error: the image was written, and the report lists what
was left out. The codes are documented in docs/exit-codes.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from .value_class import define

if TYPE_CHECKING:
    from .negotiation import Refusal

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_BAD_IMAGE = 3
EXIT_NOT_AUTHENTIC = 4
EXIT_PLUGIN = 5
EXIT_PARTIAL = 6
EXIT_BROKEN_OFF = 7
EXIT_REFUSED = 8
EXIT_UNDECIDED = 9
EXIT_TRY_AGAIN = 75
EXIT_CANCELLED = 130


class XsaveError(Exception):
    """Base of every error that xsave raises on purpose."""

    exit_code: ClassVar[int] = EXIT_FAILED


class UsageError(XsaveError):
    """The request makes no sense: an unknown name, a contradiction, a wrong address."""

    exit_code = EXIT_USAGE


class OutputError(XsaveError):
    """The destination could not be written; nothing half-written is left."""


@define(kw_only=True)
class LossError(OutputError):
    """The destination's format has no place for mandatory records. Raised by writers for the
    one that was put; the run says of all of them at once, and goes on where the caller allowed
    it (``allow_loss``).

    :ivar losses: name of a record to how many would be lost.
    :ivar kept_by: formats that have a place for it.
    """

    losses: Mapping[str, int]
    kept_by: str = "native"

    def __str__(self) -> str:
        lost = ", ".join(
            name + (f" ({count} of them)" if count > 1 else "")
            for name, count in self.losses.items()
        )
        are, them = ("are", "them") if len(self.losses) > 1 else ("is", "it")
        names = ",".join(self.losses)
        return (
            f"{lost} {are} mandatory, and this format has no place for {them}; convert to "
            f"{self.kept_by} instead, or allow the loss: --allow-loss {names}"
        )


class SourceError(XsaveError):
    """The source could not be read (not that its bytes are wrong: that is StreamError)."""


@define(kw_only=True)
class AbsentPageError(XsaveError):
    """A page was asked for that an image has no contents for."""

    pfn: int

    def __str__(self) -> str:
        return f"the image has no contents for pfn {self.pfn:#x}"


class CancelledError(XsaveError):
    """The caller asked to stop; nothing half-written is left."""

    exit_code = EXIT_CANCELLED


class JournalError(XsaveError):
    """The journal of migrations cannot be read: what it says is not known."""


@define(kw_only=True)
class RefusedError(XsaveError):
    """The destination cannot take the guest, which was not touched.

    :ivar refusals: each with ``name``, ``reason`` and ``remedy``.
    """

    where: str
    refusals: Sequence[Refusal]

    exit_code = EXIT_REFUSED

    def __str__(self) -> str:
        told = "; ".join(str(refusal) for refusal in self.refusals)
        return f"{self.where} cannot take the guest, which was not touched: {told}"


@define(kw_only=True)
class UndecidedError(XsaveError):
    """A guest was given away, and whether it runs there is not known. It stays paused here.

    :ivar migration: its id.
    """

    migration: str
    reason: str

    exit_code = EXIT_UNDECIDED

    def __str__(self) -> str:
        return (
            f"{self.reason}; it is not known whether the guest runs there, so it stays paused "
            f"here: run xsave resolve {self.migration} when the other end can be reached"
        )


@define(kw_only=True)
class OtherEndError(XsaveError):
    """The other end failed, and said why.

    :ivar code: the exit code, as of the same failure here.
    """

    where: str
    reason: str
    code: int = EXIT_FAILED

    def __attrs_post_init__(self) -> None:
        self.exit_code = self.code  # type: ignore[misc]  # of this one only

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class TryAgainError(XsaveError):
    """A condition outside that passes by itself, such as a file being locked."""

    exit_code = EXIT_TRY_AGAIN


class IdentityError(XsaveError):
    """One end of a connection is not who it should be, or cannot prove who it is."""


class LinkError(XsaveError):
    """A conversation with another end did not come to its end."""


class LinkLostError(LinkError):
    """The connection broke, and did not come back within the time allowed."""

    exit_code = EXIT_TRY_AGAIN


class SilentPeerError(LinkError):
    """The connection is there, but an answer did not come within the time allowed."""

    exit_code = EXIT_TRY_AGAIN


class LinkClosedError(LinkError):
    """The other end has said that it will say no more, or this one has."""


@define(kw_only=True)
class PeerError(LinkError):
    """The other end does not keep to the protocol. Nothing more is read from it.

    :ivar peer: who it is, as its channel says.
    """

    peer: str
    what: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.peer} sent a wrong {self.what}: expected {self.expected}, got {self.got}"


class StreamError(XsaveError):
    """The bytes are wrong: this image cannot be used as it is."""

    exit_code = EXIT_BAD_IMAGE


@define(kw_only=True)
class FormatError(StreamError):
    """The framing is wrong: a header, an order, a length outside any record's body.

    :ivar offset: of the wrong thing, in bytes from the start of the input.
    """

    what: str
    offset: int
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.what} at offset {self.offset:#x}: expected {self.expected}, got {self.got}"


@define(kw_only=True)
class TruncatedError(StreamError):
    """The input ends too early: a cut image, as told from a damaged one."""

    what: str
    offset: int
    expected: str
    got: str

    def __str__(self) -> str:
        return (
            f"the image is cut: {self.what} at offset {self.offset:#x}: "
            f"expected {self.expected}, got {self.got}"
        )


@define(kw_only=True)
class FieldError(StreamError):
    """A field inside a record's body is wrong. Raised by handlers, which know no offsets;
    the pipeline turns it into a :class:`RecordError`."""

    field: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected}, got {self.got}"


@define(kw_only=True)
class RecordError(StreamError):
    """One record of the stream is wrong.

    :ivar record: the record's name, for example ``xen.hvm.params``.
    :ivar offset: of the record's header, in bytes from the start of the input.
    """

    record: str
    offset: int
    reason: str

    def __str__(self) -> str:
        return f"{self.record} at offset {self.offset:#x}: {self.reason}"


@define(kw_only=True)
class DamageError(StreamError):
    """A checksum does not match: bytes changed since they were written.

    :ivar what: the piece that is damaged, with the pfns it holds when it holds pages.
    """

    what: str
    offset: int
    expected: str
    got: str

    def __str__(self) -> str:
        return (
            f"{self.what} at offset {self.offset:#x} is damaged: "
            f"expected checksum {self.expected}, got {self.got}"
        )


class UnrecognisedError(StreamError):
    """No registered format recognises the input."""


class AuthenticityError(StreamError):
    """The seal over the whole image does not match what was read."""

    exit_code = EXIT_NOT_AUTHENTIC


@define(kw_only=True)
class BrokenOffError(XsaveError):
    """A stream with checkpoints ended before it was over. What was being made of it is kept: a
    guest that is complete as of the last whole checkpoint, and paused. It must run only if the
    one at the source does not, which cannot be known here.

    :ivar name: of that guest; :ivar nr_checkpoints: whole ones that came.
    :ivar reason: how the stream ended.
    """

    name: str
    nr_checkpoints: int
    reason: str
    exit_code = EXIT_BROKEN_OFF

    def __str__(self) -> str:
        count = "1 checkpoint" if self.nr_checkpoints == 1 else f"{self.nr_checkpoints} checkpoints"
        return (
            f"the stream broke off after {count}: {self.reason}; {self.name} is complete as of "
            "the last one, and paused: resume it only if the source does not run any more"
        )


class PluginError(XsaveError):
    """A plugin is missing, broken, or contradicts another."""

    exit_code = EXIT_PLUGIN


@define(kw_only=True)
class DuplicateNameError(PluginError):
    """Two plugins offer the same name; neither wins."""

    kind: str
    name: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} is offered twice: by {self.first} and by {self.second}"


@define(kw_only=True)
class MissingPluginError(PluginError):
    """A mandatory record cannot be handled by the plugins at hand.

    :ivar plugin: name of the plugin that owns the record, "" where nobody knows.
    """

    record: str
    plugin: str
    reason: str

    def __str__(self) -> str:
        return f"{self.record} is mandatory: {self.reason}"


@define(kw_only=True)
class UnknownNameError(UsageError):
    """A name that is not registered; the message lists those that are."""

    kind: str
    name: str
    known: Sequence[str]

    def __str__(self) -> str:
        known = ", ".join(self.known) if self.known else "none"
        return f"no {self.kind} is named {self.name!r}; known: {known}"
