"""docs/formats/qemu.md shows what is printed, and names all that there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import xsave
from xsave_plugins.qemu_device.known import known_descriptions

TEXT = (Path(__file__).parents[2] / "docs" / "formats" / "qemu.md").read_text()


def test_the_example_prints_what_it_shows(small_image: Path) -> None:
    (block,) = re.findall(r"```console\n\$ (.*?)```", TEXT, re.DOTALL)
    command, _, shown = block.partition("\n")
    (small_image.parent / "guest.save").write_bytes(small_image.read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=small_image.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = shown.partition("...")[0]
    assert done.stdout.startswith(expected)


def test_every_record_of_qemus_has_a_section(manager: xsave.PluginManager) -> None:
    names = [name for name in manager.record_order() if "qemu." in name]
    headings = " ".join(re.findall(r"^##+ (.*)$", TEXT, re.MULTILINE))
    assert len(names) == 8
    assert all(name in headings for name in names)


def test_the_versions_whose_descriptions_are_known_are_listed() -> None:
    listed = re.findall(r"^\| ([0-9]+\.[0-9]+) \|", TEXT, re.MULTILINE)
    assert tuple(listed) == known_descriptions().versions
