"""Images that can be shown to others."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import xsave
from tests.conftest import find_image

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Valid = Callable[[bytes | str], dict[str, Any]]

DATA = Path(__file__).parents[1] / "data"
CHUNK = 32  # bytes: no such piece of a page may be found again


@pytest.fixture(scope="module")
def guest(run_xsave: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PV guest with tmem, and texts in its memory."""
    path = tmp_path_factory.mktemp("guest") / "guest.xsv"
    address = "sim:pv?memory=8M&tmem=50&name=secretname&clock=manual"
    assert run_xsave("run", address, path, "-q").returncode == 0
    return path


def pieces_of_data(guest: Path) -> set[bytes]:
    """Of pages that are data: ordinary ones, the p2m, start_info and descriptors aside. Only
    what is too varied to be in a page table as well."""
    found = xsave.read_pfns(guest, range(2048))
    p2m = set(xsave.read_record(guest, "xen.pv.p2m_frames").state.frames.tolist())
    context = xsave.read_record(guest, "xen.pv.vcpu_basic").state.context
    apart = p2m | {context.start_info_pfn} | set(context.gdt_frames)
    pieces = set()
    for pfn, (kind, page) in found.items():
        if kind == xsave.NOTAB and page is not None and pfn not in apart:
            rows = page.reshape(-1, CHUNK)
            pieces |= {row.tobytes() for row in rows[:4] if len(set(row.tolist())) >= CHUNK // 2}
    return pieces


def test_nothing_of_the_guests_data_is_left(run_xsave: Run, guest: Path, tmp_path: Path) -> None:
    shown = tmp_path / "shown.xsv"
    done = run_xsave("redact", guest, shown)
    assert done.returncode == 0, done.stderr
    data = shown.read_bytes()
    pieces = pieces_of_data(guest)
    assert len(pieces) > 500
    assert not [piece for piece in pieces if piece in data]
    assert b"secretname" not in data
    text = done.stderr.decode()
    assert "pages: page tables\n" in text
    assert "  xen.pv.vcpu_basic: context/fpu_ctxt, context/user_regs/" in text


def test_what_went_and_what_stayed_as_json(
    run_xsave: Run, guest: Path, tmp_path: Path, valid: Valid
) -> None:
    shown = tmp_path / "shown.xsv"
    found = valid(run_xsave("redact", guest, shown, "--json").stdout)
    assert found["pages"]["p2m"] == 4
    assert found["cleaned"]["xen.tmem.pages"] == ["pages/*/is_zero", "pages/*/first_bytes"]
    assert found["nr_erased"] > 1000
    assert b"secretname" not in shown.read_bytes()
    records = json.loads(run_xsave("inspect", shown, "--json").stdout)["items"]
    tmem = [item for item in records if item["name"] == "xen.tmem.pages"]
    assert all(page["is_zero"] for item in tmem for page in item["fields"]["pages"])


def test_a_redacted_guest_does_not_run(run_xsave: Run, guest: Path, tmp_path: Path) -> None:
    shown = tmp_path / "shown.xsv"
    assert run_xsave("redact", guest, shown, "-q").returncode == 0
    done = run_xsave("run", shown, "sim:pv")
    assert done.returncode == 2
    assert done.stderr == (
        b"xsave: error: the image was redacted: the guest's data is gone, so it cannot run\n"
    )


def test_a_pipe_is_refused_before_anything_is_written(run_xsave: Run, tmp_path: Path) -> None:
    done = run_xsave("redact", "-", tmp_path / "shown.xsv", input=b"")
    assert done.returncode == 2
    assert b"read several times: give a file" in done.stderr
    assert not (tmp_path / "shown.xsv").exists()


@pytest.mark.parametrize(("name", "nr_tables"), [("pv1", 176), ("pvh1", 108)])
def test_the_redacted_real_images_in_the_tree_keep_their_structure(
    run_xsave: Run, tmp_path: Path, valid: Valid, name: str, nr_tables: int
) -> None:
    again = tmp_path / "again.xsv"
    found = valid(run_xsave("redact", DATA / f"{name}.redacted.save.zst", again, "--json").stdout)
    assert found["pages"]["page tables"] == nr_tables
    if name == "pv1":
        assert (found["pages"]["p2m"], found["pages"]["start_info"]) == (48, 1)
    # erasing twice changes nothing: nothing was left to be erased
    assert run_xsave("diff", DATA / f"{name}.redacted.save.zst", again).returncode == 0


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.images(name)) for name in ("pv1", "pvh1")]
)
def test_the_redacted_images_in_the_tree_are_what_redact_makes_of_the_real_ones(
    run_xsave: Run, tmp_path: Path, manager: xsave.PluginManager, name: str
) -> None:
    image, shown, kept = find_image(name), tmp_path / "shown.save", tmp_path / "kept.save"
    assert image is not None
    assert run_xsave("redact", image, shown, "--to", "xl", "-q").returncode == 0
    xsave.run(DATA / f"{name}.redacted.save.zst", kept, to="xl", manager=manager)
    assert shown.read_bytes() == kept.read_bytes()
