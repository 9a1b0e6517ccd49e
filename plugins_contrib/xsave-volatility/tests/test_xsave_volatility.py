"""volatility3 opens images as they are, and reads in them what the guest had."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xsave
from volatility3.framework import contexts, exceptions
from volatility3.framework.layers import physical

import xsave_volatility
from xsave_volatility import XsaveLayer, XsavePages, XsaveStacker

BANNER = b"Linux version 6.1.0-test (someone@example.org) #1 SMP\0"
MIB = 1 << 20


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guest with memory from 0 and from 64 MiB on, compressed."""
    path = tmp_path_factory.mktemp("image") / "guest.xsv"
    xsave.run(Stream(), path, codec="zstd:1")
    return path


class Stream:
    """A reader of a small HVM guest; memory is all that matters here."""

    def __init__(self) -> None:
        self.info = xsave.ImageInfo("made", xsave.GuestType.UNKNOWN)

    def __iter__(self) -> Iterator[xsave.PageBatch]:
        kind = xsave.RecordType("core.page_data")
        for first in (0, 16384):
            pages = np.zeros((256, 4096), np.uint8)
            pages[:, :8] = (np.arange(256, dtype="<u8") + first).view(np.uint8).reshape(-1, 8)
            if first:
                pages[7, 100 : 100 + len(BANNER)] = np.frombuffer(BANNER, np.uint8)
            pfns = np.arange(first, first + 256, dtype=np.uint64)
            yield xsave.PageBatch(kind, pfns, pages, 256)


def test_a_layer_reads_what_is_there_and_refuses_the_rest(image: Path) -> None:
    layer = xsave_volatility.add_layer(contexts.Context(), str(image))
    assert (layer.minimum_address, layer.maximum_address) == (0, 65 * MIB - 1)
    assert layer.read(5 * 4096, 2) == b"\5\0"
    assert layer.read(64 * MIB + 7 * 4096 + 100, 13) == b"Linux version"
    assert layer.is_valid(MIB - 1) and not layer.is_valid(MIB - 1, 2)
    assert not layer.is_valid(10 * MIB)
    with pytest.raises(exceptions.InvalidAddressException):
        layer.read(MIB - 1, 2)
    padded = layer.read(MIB - 4, 8, pad=True)
    assert padded == bytes(8)


def test_bytes_below_the_layer_are_padded_over_gaps(image: Path) -> None:
    context = contexts.Context()
    layer = xsave_volatility.add_layer(context, str(image))
    pages = context.layers[layer.dependencies[0]]
    assert isinstance(pages, XsavePages)
    whole = pages.read(MIB - 4096, 63 * MIB + 2 * 4096, pad=True)
    assert len(whole) == 63 * MIB + 2 * 4096
    assert whole[:2] == b"\xff\0"
    assert whole[4096 : 4096 + 63 * MIB] == bytes(63 * MIB)
    assert whole[-4096:][:3] == b"\x00\x40\x00"
    with pytest.raises(exceptions.InvalidAddressException, match="no contents at 0x100000"):
        pages.read(MIB - 10, 20)
    assert pages.read(80 * MIB, 4, pad=True) == bytes(4)
    with pytest.raises(exceptions.LayerException, match="not written to"):
        pages.write(0, b"x")


def test_it_is_stacked_on_a_file_that_is_an_image(image: Path, tmp_path: Path) -> None:
    assert isinstance(stacked(image), XsaveLayer)
    other = tmp_path / "raw"
    other.write_bytes(bytes(8192))
    assert stacked(other) is None
    vmcore = tmp_path / "guest.vmcore"
    xsave.run(image, vmcore)
    assert stacked(vmcore) is None


def stacked(path: Path) -> object:
    context = contexts.Context()
    context.config["base.location"] = path.as_uri()
    base = physical.FileLayer(context, "base", "base")
    context.layers.add_layer(base)
    try:
        return XsaveStacker.stack(context, "base")
    finally:
        base.destroy()


def test_a_copied_context_reads_the_same_open_image(image: Path) -> None:
    context = contexts.Context()
    layer = xsave_volatility.add_layer(context, str(image))
    pages = context.layers[layer.dependencies[0]]
    again = copy.deepcopy(pages)
    assert again.memory is pages.memory
    assert again.read(3 * 4096, 1) == b"\3"


def test_an_image_is_closed_when_no_layer_has_it(image: Path, tmp_path: Path) -> None:
    again = Path(shutil.copy(image, tmp_path))
    found = xsave_volatility._image(str(again))
    assert xsave_volatility._image(str(again)) is found
    assert str(again) in open_files()
    del found
    assert str(again) not in xsave_volatility._open_images
    assert str(again) not in open_files()


def open_files() -> set[str]:
    return {os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()}


def test_vol_opens_an_image_and_finds_its_banner(image: Path, tmp_path: Path) -> None:
    vol = shutil.which("vol", path=str(Path(sys.executable).parent))
    assert vol is not None, "volatility3 is installed without its command"
    done = subprocess.run(
        [vol, "-q", "-r", "csv", "--cache-path", str(tmp_path), "--offline",
         "-f", str(image), "banners.Banners"],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    expected = f'0,0x4007064,"{BANNER[:-1].decode()}"', f"0,0x4007064,{BANNER[:-1].decode()}"
    assert any(line in expected for line in lines), done.stdout + done.stderr[-2000:]
