"""An image inside a stream of somebody else is read to its end, and not one byte further."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest

import xsave

GOLDEN = Path(__file__).parents[1] / "golden" / "native"
IMAGES = [GOLDEN / "v1.0-hvm-zstd.xsv", GOLDEN / "v1.0-pv-none.xsv", GOLDEN / "v2.0-hvm-deltas.xsv"]
BEHIND = b"what somebody else reads on: " * 1000


def image(name: str, golden: Path, folder: Path) -> bytes:
    if name == "native":
        return golden.read_bytes()
    made = folder / "made"
    xsave.run(golden, made, to=name)
    return made.read_bytes()


@pytest.mark.parametrize("golden", IMAGES, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", ["native", "libxc-v2", "libxc-v3"])
def test_all_of_it_is_read_and_nothing_behind_it(name: str, golden: Path, tmp_path: Path) -> None:
    data = image(name, golden, tmp_path)
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data + BEHIND)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        report = xsave.run(pipe.fileno(), tmp_path / "got.xsv", leave_rest=True)
        rest = b"".join(iter(lambda: pipe.read(1 << 16), b""))
    writer.join()
    assert report.source_bytes == len(data)
    assert rest == BEHIND
    whole = xsave.run(io.BytesIO(data), tmp_path / "whole.xsv")
    assert report.nr_pages == whole.nr_pages
    assert report.records == whole.records


@pytest.mark.parametrize("golden", IMAGES, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", ["native", "libxc-v3"])
def test_of_one_that_is_cut_nothing_is_left(name: str, golden: Path, tmp_path: Path) -> None:
    data = image(name, golden, tmp_path)
    for size in (0, 1, 39, 41, len(data) // 2, len(data) - 1):
        dest = tmp_path / "got.xsv"
        with pytest.raises(xsave.XsaveError):
            xsave.run(io.BytesIO(data[:size]), dest, leave_rest=True)
        assert not dest.exists()


def test_what_has_no_end_of_its_own_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO(image("xl", IMAGES[0], tmp_path))
    with pytest.raises(xsave.UsageError, match="xl images do not lie inside of other streams"):
        xsave.run(file, tmp_path / "got.xsv", leave_rest=True)
    assert not (tmp_path / "got.xsv").exists()


def test_nobody_reads_on_in_a_file_or_a_guest(tmp_path: Path) -> None:
    for source in (IMAGES[0], str(IMAGES[0]), "sim:pvh"):
        with pytest.raises(xsave.UsageError, match="descriptor or a file object"):
            xsave.run(source, tmp_path / "got.xsv", leave_rest=True)
