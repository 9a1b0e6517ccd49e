"""What the contract promises of codecs, as tests to inherit."""

from __future__ import annotations

import io
import re
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
from hypothesis import given, settings

from ..codec import Codec
from ..errors import FieldError, TruncatedError, UsageError
from . import strategies
from .handler_suite import cut_sizes

_BOMB_BYTES = 32 << 20
_ROOM_BYTES = 8 << 20  # what a decoder may need for itself, windows and tables included
_NAME = re.compile(r"[a-z0-9_-]+")


def _samples() -> dict[str, bytes]:
    pages = strategies.pages_of(range(64)).tobytes()
    return {
        "nothing": b"",
        "one byte": b"x",
        "a zero page": bytes(4096),
        "text": b"the quick brown fox jumps over the lazy dog; " * 91,
        "a batch": pages,
        "odd size": pages[:12345],
    }


class CodecSuite:
    """For a :class:`xsave.Codec`.

    :cvar codec: the one under test.
    :cvar stand_alone: a file as the codec's own program writes it, for a codec with
        ``magic``, and what is in it.
    """

    codec: ClassVar[Codec]
    stand_alone: ClassVar[bytes] = b""
    stand_alone_content: ClassVar[bytes] = b""
    max_examples: ClassVar[int] = 100

    def levels(self) -> list[int]:
        """Lowest, default, highest."""
        return sorted({*self.codec.levels, self.codec.default_level})

    def compress(self, data: bytes, level: int | None = None) -> bytes:
        chosen = self.codec.default_level if level is None else level
        return bytes(self.codec.compress(data, chosen))

    def check_refused_or_right_size(self, data: bytes, size_bytes: int) -> None:
        """Damage that a codec without a checksum cannot see gives the right size still."""
        try:
            found = self.codec.decompress(data, size_bytes)
        except FieldError:
            return
        assert len(found) == size_bytes

    def test_identity_is_complete(self) -> None:
        low, high = self.codec.levels
        assert _NAME.fullmatch(self.codec.name), "it is written as NAME or NAME:LEVEL"
        assert low <= self.codec.default_level <= high

    def test_decompress_gives_back_what_was_compressed(self) -> None:
        for what, data in _samples().items():
            for level in self.levels():
                packed = self.compress(data, level)
                assert bytes(self.codec.decompress(packed, len(data))) == data, what

    def test_any_bytes_come_back(self) -> None:
        @settings(max_examples=self.max_examples, deadline=None)
        @given(strategies.record_bodies())
        def check(data: bytes) -> None:
            assert bytes(self.codec.decompress(self.compress(data), len(data))) == data

        check()

    def test_any_kind_of_buffer_is_taken_and_left_as_it_was(self) -> None:
        pages = strategies.pages_of(range(8))
        data = pages.tobytes()
        packed = self.compress(data)
        within = memoryview(b"\xff" + data + b"\xff")[1:-1]
        for buffer in (bytearray(data), memoryview(data), within, pages.data.cast("B")):
            assert bytes(self.codec.compress(buffer, self.codec.default_level)) == packed
            assert bytes(buffer) == data
        for again in (bytearray(packed), memoryview(packed)):
            assert bytes(self.codec.decompress(again, len(data))) == data

    def test_the_same_data_gives_the_same_bytes_on_any_number_of_threads(self) -> None:
        samples = list(_samples().values()) * 4
        alone = [self.compress(data) for data in samples]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(self.compress, samples)) == alone
            sizes = map(len, samples)
            found = pool.map(self.codec.decompress, alone, sizes)
            assert [bytes(data) for data in found] == samples

    def test_more_or_fewer_bytes_than_expected_are_refused(self) -> None:
        for data in _samples().values():
            packed = self.compress(data)
            for wrong in {0, len(data) - 1, len(data) + 1, 2 * len(data)} - {-1, len(data)}:
                with pytest.raises(FieldError):
                    self.codec.decompress(packed, wrong)

    def test_cut_data_is_refused(self) -> None:
        for data in _samples().values():
            if not data:
                continue
            packed = self.compress(data)
            for size_bytes in cut_sizes(len(packed))[::7]:
                with pytest.raises(FieldError):
                    self.codec.decompress(packed[:size_bytes], len(data))

    def test_data_with_more_behind_it_is_refused(self) -> None:
        for data in _samples().values():
            packed = self.compress(data)
            for more in (b"\0", b"\xff" * 9, packed or b"x"):
                with pytest.raises(FieldError):
                    self.codec.decompress(packed + more, len(data))

    def test_damage_is_refused_or_gives_the_right_size(self) -> None:
        data = _samples()["text"]
        packed = self.compress(data)

        @settings(max_examples=self.max_examples, deadline=None)
        @given(strategies.record_bodies(packed))
        def check(damaged: bytes) -> None:
            self.check_refused_or_right_size(damaged, len(data))

        check()

    def test_a_bomb_is_refused_without_making_what_it_claims(self) -> None:
        bomb = self.compress(bytes(_BOMB_BYTES))
        tracemalloc.start()
        try:
            with pytest.raises(FieldError):
                self.codec.decompress(bomb, 4096)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < _ROOM_BYTES

    def test_a_stand_alone_file_is_read_in_bounded_pieces(self) -> None:
        if not self.codec.magic:
            with pytest.raises(UsageError):
                self.codec.open_stream(io.BytesIO(b"").read)
            return
        assert self.stand_alone, "a codec with a magic needs a `stand_alone` file to try"
        assert self.stand_alone.startswith(self.codec.magic)
        for nr_bytes in (1, 7, 1 << 16):
            assert self.unpack(self.stand_alone, nr_bytes) == self.stand_alone_content

    def test_a_cut_stand_alone_file_is_refused(self) -> None:
        for size_bytes in cut_sizes(len(self.stand_alone))[len(self.codec.magic) :: 5]:
            with pytest.raises((FieldError, TruncatedError)):
                self.unpack(self.stand_alone[:size_bytes], 64)

    def unpack(self, file: bytes, nr_bytes: int) -> bytes:
        """Read a stand-alone file whose reads give at most so many bytes each."""
        source = io.BytesIO(file)
        read = self.codec.open_stream(lambda wanted: source.read(min(wanted, nr_bytes)))
        found: list[bytes] = []
        while piece := read(4096):
            assert len(piece) <= 4096
            found.append(piece)
        return b"".join(found)
