"""What is known of devices from streams that carry a description, by QEMU version.

``descriptions/qemu-VERSION.json.xz`` has, for each device and version of its state that was seen
in real streams of that QEMU, the shapes of its data. ``tests/peer/collect_descriptions.py`` makes
these files. docs/formats/qemu.md has what is in them.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence

from xsave import frozen

from .shape import Shape, from_data

_FILE = re.compile(r"qemu-([0-9]+)\.([0-9]+)\.json\.xz")


@frozen
class KnownShape:
    """:ivar qemu: the version whose streams have it: "7.2"."""

    qemu: str
    shape: Shape


@frozen
class Catalogue:
    """:ivar versions: of QEMU, oldest first."""

    versions: tuple[str, ...]
    devices: Mapping[tuple[str, int], Sequence[KnownShape]]

    def shapes(self, name: str, version_id: int) -> Sequence[KnownShape]:
        """Of a device by its name without a path, the newest QEMU's first."""
        return self.devices.get((name, version_id), ())


def catalogue(texts: Iterable[bytes]) -> Catalogue:
    """:param texts: the files, unpacked, oldest version first."""
    versions: list[str] = []
    devices: dict[tuple[str, int], list[KnownShape]] = {}
    for text in texts:
        told = json.loads(text)
        versions.append(told["qemu"])
        for name, version_id, shapes in told["devices"]:
            known = [KnownShape(told["qemu"], from_data(one)) for one in shapes]
            devices[name, version_id] = known + devices.get((name, version_id), [])
    return Catalogue(tuple(versions), devices)


@functools.cache
def known_descriptions() -> Catalogue:
    """All that this plugin has, read when it is asked for first."""
    import importlib.resources
    import lzma

    folder = importlib.resources.files(__package__).joinpath("descriptions")
    found = {
        (int(match[1]), int(match[2])): one
        for one in folder.iterdir()
        if (match := _FILE.fullmatch(one.name))
    }
    return catalogue(lzma.decompress(found[key].read_bytes()) for key in sorted(found))
