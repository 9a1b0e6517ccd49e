"""Images of what changed: ``--base`` and ``--delta``."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Valid = Callable[[bytes | str], dict[str, Any]]


@pytest.fixture
def successor(run_xsave: Run, small_image: Path, native_image: Path, tmp_path: Path) -> Path:
    """The small image with a few pages changed, written against itself as it was."""
    changed = bytearray(small_image.read_bytes())
    at = changed.index(b"SeaBIOS")  # in its memory, which is the same in each of its copies
    changed[at : at + 7] = b"changed"
    later, image = tmp_path / "later.save", tmp_path / "later.xsv"
    later.write_bytes(changed)
    done = run_xsave("run", later, image, "--base", native_image, "--codec", "zstd:1")
    assert done.returncode == 0, done.stderr
    return image


def test_a_successor_is_small_and_comes_back_with_its_base(
    run_xsave: Run, native_image: Path, successor: Path, tmp_path: Path
) -> None:
    assert successor.stat().st_size < native_image.stat().st_size / 2
    back = tmp_path / "back.save"
    done = run_xsave("run", successor, back, "--to", "xl", "--base", native_image)
    assert done.returncode == 0, done.stderr
    assert back.read_bytes() == (tmp_path / "later.save").read_bytes()
    whole = tmp_path / "whole.xsv"
    done = run_xsave("run", successor, whole, "--base", native_image, "--codec", "lz4")
    assert done.returncode == 0, done.stderr
    assert run_xsave("diff", whole, tmp_path / "later.save").returncode == 0


def test_without_the_right_base_there_is_one_line_and_no_file(
    run_xsave: Run, successor: Path, small_image: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.save"
    done = run_xsave("run", successor, out, "--to", "xl")
    assert done.returncode == 2
    assert b"name that image with --base" in done.stderr
    assert done.stderr.count(b"\n") == 1
    other = tmp_path / "other.xsv"
    run_xsave("run", small_image, other, "--codec", "lz4")
    done = run_xsave("run", successor, out, "--to", "xl", "--base", other)
    assert done.returncode == 2
    assert b"the base given has seal " in done.stderr
    for base, code in ((small_image, 2), (tmp_path / "none.xsv", 1), (tmp_path, 2)):
        assert run_xsave("run", successor, out, "--to", "xl", "--base", base).returncode == code
    assert not out.exists()


def test_a_base_is_never_overwritten_by_its_successor(
    run_xsave: Run, native_image: Path, small_image: Path
) -> None:
    before = native_image.read_bytes()
    done = run_xsave("run", small_image, native_image, "--base", native_image)
    assert done.returncode == 2
    assert b"is both base and destination" in done.stderr
    assert native_image.read_bytes() == before


def test_options_that_make_no_sense_are_refused(
    run_xsave: Run, native_image: Path, small_image: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.save"
    for arguments, said in (
        (("run", small_image, out, "--to", "xl", "--base", native_image), b"DEST is of format xl"),
        (("run", small_image, "sim:", "--base", native_image), b"DEST is a domain"),
        (("run", small_image, out, "--to", "xl", "--delta"), b"--delta is about pages in an image"),
        (("run", "--base", native_image), b"--base needs SOURCE and DEST"),
    ):
        done = run_xsave(*arguments)
        assert done.returncode == 2
        assert said in done.stderr
    assert not out.exists()


def test_verify_and_inspect_say_what_they_could_not_look_at(
    run_xsave: Run, native_image: Path, successor: Path, valid: Valid
) -> None:
    alone = run_xsave("verify", successor)
    assert alone.returncode == 0
    assert b"written against its base, which was not looked at" in alone.stdout
    with_base = run_xsave("verify", successor, "--base", native_image)
    assert with_base.stdout.splitlines()[-1] == b"whole and right"
    seal = valid(run_xsave("verify", successor, "--json").stdout)["source"]["base"]
    assert len(seal) == 64
    assert "base" not in valid(run_xsave("verify", native_image, "--json").stdout)["source"]
    assert run_xsave("inspect", successor).returncode == 0
    assert run_xsave("inspect", successor, "--pages").returncode == 2
    counted = run_xsave("inspect", successor, "--pages", "--json", "--base", native_image)
    assert valid(counted.stdout)["page_statistics"]["nr_pages"] == 4092


def test_pages_of_a_successor_are_found_through_both_indexes(
    run_xsave: Run, native_image: Path, successor: Path
) -> None:
    done = run_xsave("inspect", successor, "--pfn", "0x100+8", "--raw", "--base", native_image)
    whole = run_xsave("inspect", native_image, "--pfn", "0x100+8", "--raw")
    assert (done.returncode, len(done.stdout)) == (0, 8 * 4096)
    assert done.stdout == whole.stdout
    assert run_xsave("inspect", successor, "--pfn", "0x100").returncode == 2


def test_a_guest_that_runs_is_saved_against_an_earlier_image(
    run_xsave: Run, tmp_path: Path
) -> None:
    address = "sim:pv?memory=16M&clock=manual{}"
    base, later, whole = (tmp_path / f"{name}.xsv" for name in ("base", "later", "whole"))
    assert run_xsave("run", address.format(""), base, "--codec", "zstd:1").returncode == 0
    done = run_xsave("run", address.format("&vcpus=2"), later, "--codec", "zstd:1", "--base", base)
    assert done.returncode == 0, done.stderr
    assert later.stat().st_size < base.stat().st_size / 20
    done = run_xsave("run", later, whole, "--base", base, "--codec", "zstd:1")
    assert done.returncode == 0, done.stderr
    assert run_xsave("diff", whole, later, "--base", base).returncode == 0
    done = run_xsave("run", later, "sim:?host=b", "--base", base)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("options", "version"), [((), 2), (("--no-delta",), 1)])
def test_differences_are_the_default_for_a_guest_that_runs(
    run_xsave: Run, tmp_path: Path, options: tuple[str, ...], version: int
) -> None:
    image, copy = tmp_path / "guest.xsv", tmp_path / "copy.xsv"
    busy = "sim:hvm?memory=16M&dirty=40M/s&clock=reads"
    policy = ("--policy", "fixed:iterations=4,dirty=0")
    done = run_xsave("run", busy, image, "--codec", "zstd:1", *policy, *options)
    assert done.returncode == 0, done.stderr
    assert image.read_bytes()[8] == version
    assert run_xsave("verify", image).returncode == 0
    assert run_xsave("run", image, copy).returncode == 0
    assert run_xsave("diff", image, copy).returncode == 0
    plain = tmp_path / "plain.xsv"
    done = run_xsave("run", copy, plain, "--no-delta", "--codec", "zstd:1")
    assert done.returncode == 0, done.stderr
    assert plain.read_bytes()[8] == 1
    assert run_xsave("diff", image, plain).returncode == 0
