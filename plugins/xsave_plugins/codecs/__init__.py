"""The bundled codecs: each module here is one plugin. What they share is below.

Layouts of what they make, and how to read it elsewhere: docs/formats/codecs.md.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Protocol

from xsave import Buffer, FieldError, PluginError, TruncatedError

Read = Callable[[int], bytes]

# Compressed bytes asked for at once from a stand-alone file.
_PIECE_BYTES = 1 << 16


def require(module: str, codec: str, remedy: str = "") -> None:
    """Find out, without importing it, whether a codec's library is installed.

    :param remedy: what is needed, where it cannot be installed like others.
    :raises PluginError: it is not; the message names what to install.
    """
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that would hold it
        found = False
    if not found:
        raise PluginError(
            f"codec {codec} needs the Python module {module}, which is not installed: "
            + (remedy or f"pip install 'xsave[{codec}]'")
        )


class FrameDecompressor(Protocol):
    """One frame being unpacked: what zstd's and lz4's objects have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...
    def decompress(self, data: Buffer, max_length: int) -> bytes: ...


class FrameStream:
    """Unpack a stand-alone file: frames one after the other, in bounded pieces.

    :param read: yields up to so many bytes of the compressed file, b"" at its end.
    :param codec: its name, for messages.
    :param make: makes a decompressor for the next frame.
    :param errors: what such a decompressor raises for damaged data.
    """

    def __init__(
        self,
        read: Read,
        codec: str,
        make: Callable[[], FrameDecompressor],
        errors: type[Exception],
    ) -> None:
        self._read = read
        self._codec = codec
        self._make = make
        self._errors = errors
        self._frame: FrameDecompressor | None = make()
        self._pending = b""  # read, and not yet given to a decompressor
        self._offset = 0  # in the compressed file, of what is read next
        self._over = False

    def read(self, size_bytes: int) -> bytes:
        """The next unpacked bytes, from 1 to ``size_bytes`` of them; b"" at the end.

        :raises TruncatedError: the file ends inside a frame.
        :raises FieldError: a frame is damaged, or something else follows a frame.
        """
        while size_bytes > 0 and not self._over:
            if piece := self._step(size_bytes):
                return piece
        return b""

    def _step(self, size_bytes: int) -> bytes:
        if self._frame is None:
            if not self._fill():
                self._over = True
                return b""
            self._frame = self._make()
        frame = self._frame
        data = b""
        if frame.needs_input:
            if not self._fill():
                raise TruncatedError(
                    what=f"{self._codec} file", offset=self._offset,
                    expected=f"the rest of a {self._codec} frame", got="the end of the file",
                )  # fmt: skip
            data, self._pending = self._pending, b""
        try:
            piece = frame.decompress(data, max_length=size_bytes)
        except self._errors as error:
            raise FieldError(
                field=f"{self._codec} file", expected=f"whole {self._codec} frames",
                got=f"{error} (within the {_PIECE_BYTES} bytes before {self._offset:#x})",
            ) from None  # fmt: skip
        if frame.eof:
            self._pending = frame.unused_data or b""
            self._frame = None
        return piece

    def _fill(self) -> bool:
        """Have some compressed bytes at hand; False at the end of the file."""
        if not self._pending:
            self._pending = self._read(_PIECE_BYTES)
            self._offset += len(self._pending)
        return bool(self._pending)


def damaged(codec: str, size_bytes: int, got: str) -> FieldError:
    """The error for a body that does not unpack to exactly ``size_bytes``."""
    return FieldError(field=f"{codec} data", expected=f"{size_bytes} bytes packed", got=got)


def unpack_frame(
    frame: FrameDecompressor, data: Buffer, size_bytes: int, codec: str, errors: type[Exception]
) -> bytes:
    """Exactly ``size_bytes`` from exactly one frame, which has a sum of its own.

    :param errors: what the decompressor raises for damaged data.
    :raises FieldError: says what is there instead.
    """
    try:
        # One byte of room more than wanted, so that the decompressor goes on to the
        # frame's end instead of stopping when it is full.
        unpacked = frame.decompress(data, size_bytes + 1)
    except (errors, EOFError):
        raise damaged(codec, size_bytes, "a damaged frame") from None
    if len(unpacked) > size_bytes:
        raise damaged(codec, size_bytes, "more bytes")
    if not frame.eof:
        raise damaged(codec, size_bytes, f"a frame cut after {len(unpacked)} bytes")
    if frame.unused_data:
        raise damaged(codec, size_bytes, f"{len(frame.unused_data)} bytes too many")
    if len(unpacked) < size_bytes:
        raise damaged(codec, size_bytes, f"{len(unpacked)} bytes")
    return unpacked
