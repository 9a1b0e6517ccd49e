from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Valid = Callable[[bytes | str], dict[str, Any]]


def damaged(native_image: Path, folder: Path) -> Path:
    data = bytearray(native_image.read_bytes())
    data[len(data) // 2] ^= 1
    path = folder / "damaged.xsv"
    path.write_bytes(data)
    return path


def test_what_is_lost_is_listed_and_is_exit_code_6(
    run_xsave: Run, native_image: Path, tmp_path: Path, valid: Valid
) -> None:
    image, out = damaged(native_image, tmp_path), tmp_path / "saved.xsv"
    done = run_xsave("salvage", image, out)
    assert done.returncode == 6
    text = done.stderr.decode()
    assert "pages for certain, in 1 places\n  xen.hvm.page_data at 0x" in text
    found = valid(run_xsave("salvage", image, out, "--json").stdout)
    assert found["nr_losses"] == 1
    (loss,) = found["losses"]
    assert loss["is_exact"] is True
    assert sum(last - first + 1 for first, last in loss["pfns"]) == found["nr_lost_pages"] > 0


def test_what_is_saved_is_what_was_there(
    run_xsave: Run, native_image: Path, tmp_path: Path, valid: Valid
) -> None:
    out = tmp_path / "saved.xsv"
    assert run_xsave("salvage", damaged(native_image, tmp_path), out).returncode == 6
    done = run_xsave("verify", out)
    assert done.returncode == 3
    assert b"every piece is right, but the image was salvaged from a damaged one" in done.stderr
    assert run_xsave("inspect", out).returncode == 0
    found = valid(run_xsave("diff", native_image, out, "--json").stdout)
    assert found["records"] == []
    memory = found["memory"]
    assert (memory["contents"], memory["only_a"], memory["only_b"]) == (0, 0, 0)
    assert {one["type_b"] for one in memory["ranges"]} == {"BROKEN"}


def test_a_salvaged_guest_does_not_run(run_xsave: Run, native_image: Path, tmp_path: Path) -> None:
    out = tmp_path / "saved.xsv"
    assert run_xsave("salvage", native_image, out).returncode == 0
    done = run_xsave("run", out, "sim:")
    assert done.returncode == 2
    assert b"the image was salvaged: parts of the guest are missing" in done.stderr


def test_of_a_cut_xl_image_what_comes_before_is_saved(
    run_xsave: Run, small_image: Path, tmp_path: Path
) -> None:
    cut, out = tmp_path / "cut.save", tmp_path / "saved.xsv"
    cut.write_bytes(small_image.read_bytes()[:20_000_000])
    done = run_xsave("salvage", cut, out, "--codec", "zstd:1")
    assert done.returncode == 6
    assert b"everything from here on at 0x" in done.stderr
    assert b"saved: 7 records, 4064 pages\n" in done.stderr


def test_a_file_that_is_no_image_is_told_so(run_xsave: Run, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.write_bytes(b"\x89XSV\r\n\x1a\n" + bytes(100))
    done = run_xsave("salvage", odd, tmp_path / "saved.xsv")
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "saved.xsv").exists()
