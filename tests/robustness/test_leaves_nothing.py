"""A run that fails leaves neither an output file nor a temporary one, and an older file of
that name as it was."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import xsave
from tests.plugins.xen_stream import build as b
from tests.robustness.images import Images, kind_of, native, record
from xsave import CancelledError, OutputError, PluginError, StreamError, XsaveError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    made.mkdir()
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sources(images: Images, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Images that fail: at the headers, half-way, at the very end."""
    wrong = {
        "headers": images["xl"][:60],
        "half-way": images["xl"][: len(images["xl"]) // 2],
        "end": images["xl"][:-1],
        "trailing": images["xl"] + b"\0",
        "native end": images["native zstd"][:-1],
        "native damage": images["native none"].replace(b.page(2)[:64], b"\0" * 64, 1),
        "no plugin": native([kind_of("vendor.thing", 0), record(0, b"")]),
        "check at the end": b.xl(b.libxl(b.libxc(b.hvm()[:3]))),
        "unknown": b"#!/bin/sh\n",
        "nothing": b"",
    }
    for what, data in wrong.items():
        path = tmp_path / "source"
        path.write_bytes(data)
        yield what, path


@pytest.mark.parametrize("dest", ["image.xsv", "image.xl", "image.libxc"])
@pytest.mark.parametrize("older", [None, b"an older image"])
def test_a_bad_source_leaves_nothing(
    dest: str, older: bytes | None, images: Images, folder: Path, tmp_path: Path,
    manager: xsave.PluginManager,
) -> None:  # fmt: skip
    path = folder / dest
    if older is not None:
        path.write_bytes(older)
    for what, source in sources(images, tmp_path):
        with pytest.raises((StreamError, PluginError, OutputError)):
            xsave.run(source, path, manager=manager)
        assert names(folder) == ([dest] if older is not None else []), what
        if older is not None:
            assert path.read_bytes() == older


@pytest.mark.parametrize("codec", ["none", "zstd", "lz4", "brotli:1"])
def test_a_cancelled_run_leaves_nothing(
    codec: str, images: Images, folder: Path, tmp_path: Path, manager: xsave.PluginManager
) -> None:
    source = tmp_path / "source"
    source.write_bytes(images["xl"])
    for limit in range(0, 12, 3):
        asked = itertools.count(1)
        with pytest.raises(CancelledError):
            xsave.run(
                source, folder / "image.xsv", codec=codec, manager=manager,
                cancelled=functools.partial(_reached, asked, limit),
            )  # fmt: skip
        assert not names(folder)


def _reached(asked: Iterator[int], limit: int) -> bool:
    return next(asked) > limit


def test_a_full_disk_leaves_nothing(
    images: Images, folder: Path, tmp_path: Path, manager: xsave.PluginManager,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    source = tmp_path / "source"
    source.write_bytes(images["xl"])

    def full(_fd: int, _parts: object, _offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(OutputError, match="No space left"):
        xsave.run(source, folder / "image.xsv", manager=manager)
    assert not names(folder)


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_failure_while_finishing_leaves_nothing(
    call: str, images: Images, folder: Path, tmp_path: Path, manager: xsave.PluginManager,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    source = tmp_path / "source"
    source.write_bytes(images["xl"])

    def broken(*_args: object) -> None:
        raise OSError(5, "Input/output error")

    if call == "replace":
        monkeypatch.setattr(Path, "replace", broken)
    else:
        monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OutputError, match="Input/output error"):
        xsave.run(source, folder / "image.xsv", manager=manager)
    monkeypatch.undo()
    assert not names(folder)


def test_without_nameless_files_nothing_is_left_either(
    images: Images, folder: Path, tmp_path: Path, manager: xsave.PluginManager,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """On file systems that have no O_TMPFILE a hidden file stands in."""
    really_open = os.open

    def refusing(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return really_open(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    for what, source in sources(images, tmp_path):
        with pytest.raises(XsaveError):
            xsave.run(source, folder / "image.xsv", manager=manager)
        assert not names(folder), what
    source = tmp_path / "source"
    source.write_bytes(images["xl"])
    xsave.run(source, folder / "image.xsv", manager=manager)
    assert names(folder) == ["image.xsv"]
    assert xsave.verify(folder / "image.xsv", manager=manager).nr_batches == 3


def test_a_good_run_leaves_one_file_for_its_owner_only(
    images: Images, folder: Path, tmp_path: Path, manager: xsave.PluginManager
) -> None:
    source = tmp_path / "source"
    source.write_bytes(images["xl"])
    xsave.run(source, folder / "image.xsv", manager=manager)
    assert names(folder) == ["image.xsv"]
    assert (folder / "image.xsv").stat().st_mode & 0o777 == 0o600
