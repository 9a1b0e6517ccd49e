"""What the contract promises of record handlers, as tests to inherit."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings

from ..batch import PageBatch
from ..errors import FieldError
from ..handler import Handler, MemoryHandler, RecordHandler
from ..pages import Entries, count_pages
from ..record import GuestType, Phase, RecordType
from . import strategies

_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")
_CUTS_MAX = 2000  # of one body; longer ones are cut at both ends and at places between


class _AnyHandlerSuite:
    max_examples: ClassVar[int] = 100

    def _check_identity(self, handler: Handler) -> None:
        assert _NAME.fullmatch(handler.name), "the name has the form vendor.thing.part"
        assert handler.version >= 1
        assert isinstance(handler.mandatory, bool)
        assert isinstance(handler.phase, Phase)
        assert isinstance(handler.guest_types, frozenset) and handler.guest_types
        assert all(isinstance(guest, GuestType) for guest in handler.guest_types)
        for names in (handler.before, handler.after):
            assert isinstance(names, frozenset), "before and after are frozensets of names"
            assert handler.name not in names
        assert not handler.before & handler.after


class HandlerSuite(_AnyHandlerSuite):
    """For a :class:`xsave.RecordHandler`.

    :cvar handler: the one under test.
    :cvar bodies: good ones, together covering each form a body can have.
    :cvar refused: bodies that ``decode`` must refuse.
    :cvar golden: folder with bodies of real records in files named after the record:
        ``NAME.bin`` or ``NAME.WHAT.bin``.
    """

    handler: ClassVar[RecordHandler[Any]]
    bodies: ClassVar[Sequence[bytes]] = ()
    refused: ClassVar[Sequence[bytes]] = ()
    golden: ClassVar[Path | None] = None

    def all_bodies(self) -> list[bytes]:
        """The given bodies and the golden ones."""
        found = list(self.bodies)
        if self.golden is not None:
            name = self.handler.name
            files = {*self.golden.glob(f"{name}.bin"), *self.golden.glob(f"{name}.*.bin")}
            found += [file.read_bytes() for file in sorted(files)]
        assert found, "the suite has no body to try: give some in `bodies` or `golden`"
        return found

    def encode(self, state: Any) -> bytes:
        return b"".join(self.handler.encode(state))

    def check_refused_or_identical(self, body: bytes) -> None:
        """A strict decoder does one of two things with any bytes."""
        try:
            state = self.handler.decode(memoryview(body))
        except FieldError:
            return
        assert self.encode(state) == body

    def test_identity_is_complete(self) -> None:
        self._check_identity(self.handler)

    def test_encode_of_decode_is_the_same_bytes(self) -> None:
        for body in self.all_bodies():
            assert self.encode(self.handler.decode(memoryview(body))) == body

    def test_a_body_may_lie_anywhere_in_a_larger_buffer(self) -> None:
        for body in self.all_bodies():
            around = bytearray(b"\xff" * 3 + body + b"\xff" * 5)
            within = memoryview(around)[3 : 3 + len(body)]
            assert self.encode(self.handler.decode(within)) == body

    def test_a_state_outlives_the_buffer_it_was_decoded_from(self) -> None:
        for body in self.all_bodies():
            buffer = bytearray(body)
            state = self.handler.decode(memoryview(buffer))
            described = json.dumps(self.handler.describe(state, {}))
            buffer[:] = bytes(255 - byte for byte in buffer)
            assert self.encode(state) == body
            assert json.dumps(self.handler.describe(state, {})) == described

    def test_encode_leaves_the_state_as_it_was(self) -> None:
        for body in self.all_bodies():
            state = self.handler.decode(memoryview(body))
            assert self.encode(state) == self.encode(state)

    def test_a_description_is_json(self) -> None:
        for body in self.all_bodies():
            state = self.handler.decode(memoryview(body))
            described = self.handler.describe(state, {})
            text = json.dumps(described, allow_nan=False)
            assert json.loads(text) == described, "keys are text, sequences are lists"

    def test_a_body_cut_anywhere_is_refused_or_identical(self) -> None:
        for body in self.all_bodies():
            for size_bytes in cut_sizes(len(body)):
                self.check_refused_or_identical(body[:size_bytes])

    def test_a_body_with_more_behind_it_is_refused_or_identical(self) -> None:
        for body in self.all_bodies():
            for more in (b"\0", b"\xff", bytes(8), b"\xff" * 8, body):
                self.check_refused_or_identical(body + more)

    def test_garbage_is_refused_or_identical(self) -> None:
        @settings(max_examples=self.max_examples, deadline=None)
        @given(strategies.record_bodies(*self.all_bodies()))
        def check(body: bytes) -> None:
            self.check_refused_or_identical(body)

        check()

    def test_what_must_be_refused_is(self) -> None:
        for body in self.refused:
            with pytest.raises(FieldError) as caught:
                self.handler.decode(memoryview(body))
            assert caught.value.field and caught.value.expected and caught.value.got


class MemoryHandlerSuite(_AnyHandlerSuite):
    """For a :class:`xsave.MemoryHandler`.

    :cvar handler: the one under test.
    :cvar good: lists of entries (u64: type nibble, reserved bits, pfn) that are fine.
    :cvar refused: lists of entries that ``check`` must refuse.
    """

    handler: ClassVar[MemoryHandler]
    good: ClassVar[Sequence[Sequence[int]]] = ()
    refused: ClassVar[Sequence[Sequence[int]]] = ()

    def batch(self, entries: Sequence[int] | Entries, *, with_pages: bool = False) -> PageBatch:
        """The entries in a batch that cannot be written to."""
        array = np.array(entries, np.uint64)
        array.flags.writeable = False
        nr_pages = count_pages(array) if len(array) else 0
        pages = strategies.pages_of(range(nr_pages)) if with_pages else None
        kind = RecordType(self.handler.name, self.handler.version, self.handler.mandatory)
        return PageBatch(kind, array, pages, nr_pages)

    def test_identity_is_complete(self) -> None:
        self._check_identity(self.handler)
        assert self.handler.phase is Phase.MEMORY

    def test_good_entries_pass_with_and_without_contents(self) -> None:
        assert self.good, "the suite has no entries to try: give some in `good`"
        for entries in self.good:
            self.handler.check(self.batch(entries))
            self.handler.check(self.batch(entries, with_pages=True))

    def test_what_must_be_refused_is(self) -> None:
        for entries in self.refused:
            with pytest.raises(FieldError) as caught:
                self.handler.check(self.batch(entries))
            assert caught.value.field and caught.value.expected and caught.value.got

    def test_any_entries_are_refused_or_fine_whatever_the_contents(self) -> None:
        @settings(max_examples=self.max_examples, deadline=None)
        @given(strategies.page_batches())
        def check(batch: PageBatch) -> None:
            before = batch.entries.copy()
            bare = self.batch(batch.entries)
            assert self._verdict(batch) == self._verdict(bare)
            assert np.array_equal(batch.entries, before)

        check()

    def test_an_empty_batch_is_refused_or_fine(self) -> None:
        self._verdict(self.batch([]))

    def _verdict(self, batch: PageBatch) -> str:
        try:
            self.handler.check(batch)
        except FieldError as error:
            return str(error)
        return ""


def cut_sizes(size_bytes: int) -> Sequence[int]:
    """Lengths to cut something of this size to: all of them, or a good choice."""
    if size_bytes <= _CUTS_MAX:
        return range(size_bytes)
    third = _CUTS_MAX // 3
    between = range(third, size_bytes - third, max((size_bytes - 2 * third) // third, 1))
    return [*range(third), *between, *range(size_bytes - third, size_bytes)]
