"""What tests of all folders share: where the real images are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import xsave

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def manager() -> xsave.PluginManager:
    """All installed plugins, loaded once."""
    return xsave.build_manager()


@pytest.fixture(scope="session")
def small_image(tmp_path_factory: pytest.TempPathFactory, manager: xsave.PluginManager) -> Path:
    """The bundled real image: an HVM guest of 16 MB, saved by Xen 4.17.5, unpacked."""
    path = tmp_path_factory.mktemp("images") / "hvmbios.save"
    packed = (DATA / "hvmbios.save.zst").read_bytes()
    codec = manager.codecs.find("zstd")
    position = 0

    def read(size_bytes: int) -> bytes:
        nonlocal position
        piece = packed[position : position + size_bytes]
        position += len(piece)
        return piece

    unpacked = codec.open_stream(read)
    with path.open("wb") as file:
        while piece := unpacked(1 << 20):
            file.write(piece)
    return path


def find_image(name: str) -> Path | None:
    """A larger real image, if this machine has it: in the folder ``XSAVE_IMAGES`` names,
    as ``NAME.save``."""
    folder = os.environ.get("XSAVE_IMAGES")
    path = Path(folder, f"{name}.save") if folder else None
    return path if path is not None and path.exists() else None
