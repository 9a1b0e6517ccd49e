"""Layers of volatility3 over images that xsave reads, without export.

volatility copies its context, layers and all, now and then, and makes layers anew from their
configuration: so what a layer has is its image's path, and the open image is shared by all
layers over it.
"""

from __future__ import annotations

import logging
import weakref
from bisect import bisect_right
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from volatility3.framework import exceptions, interfaces
from volatility3.framework.configuration import requirements
from volatility3.framework.layers import physical, segmented
from xsave import GuestMemory, XsaveError, open_memory

log = logging.getLogger(__name__)

LEFT_TO_VOLATILITY = frozenset({"vmcore"})  # formats that it reads well itself
Progress = Callable[[float, str], None] | None


class _Image:
    """An open image, for all layers over it; closed with the last of them."""

    def __init__(self, path: str) -> None:
        self.memory = open_memory(path)
        weakref.finalize(self, self.memory.close)
        self.ranges = self.memory.ranges()
        self.starts = [start for start, _ in self.ranges]


_open_images: weakref.WeakValueDictionary[str, _Image] = weakref.WeakValueDictionary()


def _image(path: str) -> _Image:
    if (found := _open_images.get(path)) is None:
        found = _open_images[path] = _Image(path)
    return found


class XsavePages(interfaces.layers.DataLayerInterface):  # type: ignore[misc, unused-ignore]
    """Bytes of an image at physical addresses."""

    def __init__(
        self, context: Any, config_path: str, name: str, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(context, config_path, name, metadata)
        self._path = str(self.config["path"])
        self._image = _image(self._path)

    @classmethod
    def get_requirements(cls) -> list[Any]:
        return [requirements.StringRequirement(name="path", description="the image")]

    @property
    def memory(self) -> GuestMemory:
        return self._image.memory

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Start and size in bytes of what there is, ascending."""
        return self._image.ranges

    @property
    def minimum_address(self) -> int:
        return self.ranges[0][0]

    @property
    def maximum_address(self) -> int:
        start, size = self.ranges[-1]
        return start + size - 1

    def _there(self, offset: int) -> int:
        """How many bytes there are from here on without a gap."""
        at = bisect_right(self._image.starts, offset) - 1
        if at < 0:
            return 0
        start, size = self.ranges[at]
        return max(0, start + size - offset)

    def is_valid(self, offset: int, length: int = 1) -> bool:
        return self._there(offset) >= length

    def read(self, offset: int, length: int, pad: bool = False) -> bytes:
        if self.is_valid(offset, length):
            return self.memory.read(offset, length)
        if not pad:
            address = offset + min(self._there(offset), length)
            raise exceptions.InvalidAddressException(
                self.name, address, f"{self._path} has no contents at {address:#x}"
            )
        return b"".join(self._padded(offset, length))

    def _padded(self, offset: int, length: int) -> Any:
        end = offset + length
        while offset < end:
            if size := min(self._there(offset), end - offset):
                yield self.memory.read(offset, size)
            else:
                after = bisect_right(self._image.starts, offset)
                start = self._image.starts[after] if after < len(self.ranges) else end
                size = min(start, end) - offset
                yield bytes(size)
            offset += size

    def write(self, offset: int, data: bytes) -> None:
        raise exceptions.LayerException(
            self.name, f"{self._path} is an image: it is not written to"
        )

    def __getstate__(self) -> dict[str, Any]:
        """For copies: without the open image."""
        return {name: value for name, value in self.__dict__.items() if name != "_image"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._image = _image(self._path)


class XsaveLayer(segmented.SegmentedLayer):  # type: ignore[misc, unused-ignore]
    """A guest's memory: the ranges that its image has."""

    def _load_segments(self) -> None:
        pages = self.context.layers[self._base_layer]
        assert isinstance(pages, XsavePages)
        self._segments = [(start, start, size, size) for start, size in pages.ranges]


class XsaveStacker(interfaces.automagic.StackerLayerInterface):  # type: ignore[misc, unused-ignore]
    """Puts an :class:`XsaveLayer` where volatility was given an image that xsave reads."""

    stack_order = 5  # before volatility's own for core files

    @classmethod
    def stack(
        cls, context: Any, layer_name: str, progress_callback: Progress = None
    ) -> XsaveLayer | None:
        base = context.layers[layer_name]
        if not isinstance(base, physical.FileLayer):
            return None
        location = urlsplit(base.location)
        if location.scheme != "file":
            return None
        path = url2pathname(location.path)
        try:
            image = _image(path)
        except XsaveError as error:
            log.info("xsave does not read %s: %s", path, error)
            return None
        if image.memory.info.format in LEFT_TO_VOLATILITY or not image.ranges:
            return None
        return _make(context, path)


def add_layer(context: Any, path: str) -> XsaveLayer:
    """A layer of an image's memory, in a context of volatility.

    :raises xsave.XsaveError: the image cannot be opened.
    """
    layer = _make(context, path)
    context.layers.add_layer(layer)
    return layer


def _make(context: Any, path: str) -> XsaveLayer:
    join = interfaces.configuration.path_join
    pages = context.layers.free_layer_name("XsavePages")
    context.config[join(pages, "path")] = path
    context.layers.add_layer(XsavePages(context, pages, pages))
    name = context.layers.free_layer_name("XsaveLayer")
    context.config[join(name, "base_layer")] = pages
    return XsaveLayer(context, name, name)
