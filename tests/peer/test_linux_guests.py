"""Debuggers see the guests of real images: their tasks, their version, what their kernels said."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import drgn
import pytest
from drgn.helpers.linux import find_task, for_each_task
from drgn.helpers.linux.printk import get_dmesg

import xsave
import xsave_drgn
from tests.conftest import find_image

RELEASE = "6.1.0-50-amd64"
BANNER = f"Linux version {RELEASE} (debian-kernel@lists.debian.org)"
GUESTS = [
    pytest.param(name, marks=pytest.mark.images(name)) for name in ("pv1", "pvh1", "hvmlinux")
]
WITH_SYMBOLS = pytest.mark.vmlinux(RELEASE)


def image_of(name: str) -> Path:
    found = find_image(name)
    assert found is not None
    return found


def check(prog: drgn.Program, vmlinux: Path) -> None:
    prog.load_debug_info([vmlinux])
    assert prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL
    assert prog["linux_banner"].string_().decode().startswith(BANNER)
    tasks = {task.pid.value_(): task.comm.string_().decode() for task in for_each_task(prog)}
    assert tasks[2] == "kthreadd"
    assert {"kswapd0", "ksoftirqd/0", "xenbus", "xenwatch"} <= set(tasks.values())
    assert len(tasks) > 40
    lines = get_dmesg(prog).decode().splitlines()
    assert BANNER in lines[0]
    assert len(lines) > 200
    frames = [frame.name for frame in prog.stack_trace(find_task(prog, 2))]
    assert frames[:3] == ["context_switch", "__schedule", "schedule"]
    assert "kthreadd" in frames


@WITH_SYMBOLS
@pytest.mark.parametrize("name", GUESTS)
def test_drgn_prints_tasks_banner_and_log_of_the_exported_core_file(
    tmp_path: Path, name: str, vmlinux: Path
) -> None:
    core = tmp_path / "guest.vmcore"
    xsave.run(image_of(name), core)
    prog = drgn.Program()
    prog.set_core_dump(core)
    check(prog, vmlinux)


@WITH_SYMBOLS
@pytest.mark.parametrize("name", GUESTS)
def test_drgn_prints_them_of_the_image_as_it_is(tmp_path: Path, name: str, vmlinux: Path) -> None:
    image = image_of(name)
    if image.suffix != ".xsv":
        check(xsave_drgn.program(image), vmlinux)
    packed = tmp_path / "guest.xsv"
    xsave.run(image, packed, codec="zstd:1")
    check(xsave_drgn.program(packed), vmlinux)


@WITH_SYMBOLS
@pytest.mark.crash
@pytest.mark.parametrize(
    ("to", "name"), [("vmcore", "pvh1"), ("xen-core", "pvh1"), ("xen-core", "pv1")]
)
@pytest.mark.images("pv1", "pvh1")
def test_crash_walks_a_stack_and_prints_the_log(
    tmp_path: Path, to: str, name: str, vmlinux: Path
) -> None:
    core, commands = tmp_path / "guest.core", tmp_path / "commands"
    xsave.run(image_of(name), core, to=to)
    commands.write_text("sys\nlog\nbt -a\nquit\n")
    done = subprocess.run(
        ["crash", "-s", "-i", commands, vmlinux, core],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL, cwd=tmp_path,
    )  # fmt: skip
    assert f"RELEASE: {RELEASE}" in done.stdout
    assert "suspending xenstore..." in done.stdout
    stack = done.stdout[done.stdout.index("PID: ") :]
    assert 'COMMAND: "migration/0"' in stack
    assert "multi_cpu_stop" in stack and "ret_from_fork" in stack


@pytest.mark.parametrize("name", GUESTS)
def test_volatility_finds_the_banner_in_the_image_as_it_is(tmp_path: Path, name: str) -> None:
    packed = tmp_path / "guest.xsv"
    xsave.run(image_of(name), packed, codec="zstd:1")
    vol = shutil.which("vol", path=str(Path(sys.executable).parent))
    assert vol is not None
    done = subprocess.run(
        [vol, "-q", "-r", "csv", "--cache-path", tmp_path, "--offline", "-f", packed,
         "banners.Banners"],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert BANNER in done.stdout
