"""What is kept apart comes back as it was, from memory and from a file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from xsave import OutputError
from xsave.io.spool import Spool

PIECES = [b"", b"a", bytes(range(256)) * 17, b"end"]


@pytest.mark.parametrize("memory_bytes", [0, 1, 1000, 1 << 20])
def test_pieces_come_back_in_order(memory_bytes: int) -> None:
    spool = Spool(memory_bytes)
    for _ in range(2):
        spool.put(PIECES[:2])
        spool.put([memoryview(piece) for piece in PIECES[2:]])
        assert spool.size_bytes == sum(map(len, PIECES))
        assert [bytes(piece) for piece in spool.take(iter(map(len, PIECES)))] == PIECES
        spool.clear()
        assert spool.size_bytes == 0
    spool.close()


def test_more_than_was_put_cannot_be_taken() -> None:
    spool = Spool()
    spool.put([b"abc"])
    with pytest.raises(OutputError, match="cannot be read back whole"):
        list(spool.take(iter([4])))
    spool.close()


def test_a_folder_without_room_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    monkeypatch.setattr(tempfile, "tempdir", str(gone))
    spool = Spool(memory_bytes=2)
    with pytest.raises(OutputError, match=f"apart in {gone}: No such file"):
        spool.put([b"abc"])
    spool.close()


def test_nothing_is_left_in_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = Spool(memory_bytes=2)
    spool.put([b"abc"])
    spool.close()
    assert list(tmp_path.iterdir()) == []
