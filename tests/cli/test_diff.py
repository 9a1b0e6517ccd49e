from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Valid = Callable[[bytes | str], dict[str, Any]]


@pytest.fixture(scope="module")
def guests(run_xsave: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same guest, saved at two moments."""
    folder = tmp_path_factory.mktemp("guests")
    made = (folder / "a.xsv", folder / "b.xsv")
    for path, seconds in zip(made, ("manual", "reads"), strict=True):
        address = f"sim:pv?memory=8M&dirty=4M/s&name=web&clock={seconds}"
        assert run_xsave("run", address, path, "-q").returncode == 0
    return made


def test_an_image_in_two_formats_is_one_guest(
    run_xsave: Run, small_image: Path, native_image: Path, valid: Valid
) -> None:
    done = run_xsave("diff", small_image, native_image)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().endswith(" are the same: 13 records, 4092 pfns\n")
    found = valid(run_xsave("diff", small_image, native_image, "--json").stdout)
    assert found["equal"] is True
    assert (found["a"]["format"], found["b"]["format"]) == ("xl", "native")


def test_what_differs_is_shown_and_is_exit_code_1(
    run_xsave: Run, guests: tuple[Path, Path], valid: Valid
) -> None:
    done = run_xsave("diff", *guests)
    assert (done.returncode, done.stderr) == (1, b"")
    text = done.stdout.decode()
    assert "\nmemory\n  0x1  other contents, NOTAB\n" in text
    assert text.splitlines()[-1].startswith(f"{guests[0]} and {guests[1]} differ: ")
    done = run_xsave("diff", *guests, "--json")
    found = valid(done.stdout)
    assert done.returncode == 1
    assert found["memory"]["ranges"][0]["first_pfn"] == 1
    assert run_xsave("diff", *guests, "-q").stdout == b""


def test_a_pipe_can_be_one_of_the_two(run_xsave: Run, native_image: Path) -> None:
    done = run_xsave("diff", "-", native_image, input=native_image.read_bytes())
    assert done.returncode == 0, done.stderr
    both = run_xsave("diff", "-", "-", input=b"")
    assert both.returncode == 2
    assert b"only one of the two" in both.stderr


def test_trouble_is_never_mistaken_for_a_difference(
    run_xsave: Run, native_image: Path, tmp_path: Path, valid: Valid
) -> None:
    done = run_xsave("diff", tmp_path / "nothing", native_image)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    damaged = bytearray(native_image.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.xsv").write_bytes(damaged)
    done = run_xsave("diff", native_image, tmp_path / "damaged.xsv", "--json")
    assert done.returncode == 3
    assert valid(done.stdout)["error"]["exit_code"] == 3


def test_a_record_that_may_differ_is_left_out_of_it(
    run_xsave: Run, small_image: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.save"
    assert run_xsave("run", small_image, bare, "--to", "libxl", "-q").returncode == 0
    done = run_xsave("diff", small_image, bare)
    assert done.returncode == 1
    assert b"xen.xl.header  only in the first, 1419 bytes\n" in done.stdout
    assert run_xsave("diff", small_image, bare, "--ignore", "xen.xl.header").returncode == 0
