"""xsave and what it depends on, as wheels for dom0's Python: dom0 has no network.

The dependencies are part of a host's image; xsave itself is built from the tree, and
installed into a host that runs.
"""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from pathlib import Path

from .programs import run
from .releases import Release

TREE = Path(__file__).resolve().parents[3]
VENV = "opt/xsave"  # in dom0
EXTRAS = ("zstd", "lz4", "rich")
TESTING = ("pytest", "hypothesis")  # for the suites that run in dom0 itself
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")


def dependencies() -> list[str]:
    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    testing = [one for one in extras["dev"] if re.split("[^a-z]", one)[0] in TESTING]
    of_extras = [one for name in EXTRAS for one in extras[name]]
    return sorted([*project["dependencies"], *of_extras, *testing])


def fetch_wheels(release: Release, folder: Path) -> Path:
    """Of the dependencies, for dom0's interpreter rather than for ours."""
    platforms = [f"--platform={name}" for name in PLATFORMS]
    run(
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--only-binary=:all:", f"--python-version={release.python}", "--implementation=cp",
        *platforms, "--dest", folder, *dependencies(),
    )  # fmt: skip
    return folder


def install_dependencies(root: Path, wheels: Path) -> None:
    """Into a virtual environment in dom0's root folder, without a network."""
    inside = root / "wheels"
    shutil.copytree(wheels, inside)
    try:
        run("chroot", root, "python3", "-m", "venv", f"/{VENV}")
        files = [f"/wheels/{file.name}" for file in sorted(inside.iterdir())]
        run("chroot", root, f"/{VENV}/bin/pip", "install", "--quiet", "--no-index", "--no-deps",
            "--disable-pip-version-check", *files)  # fmt: skip
    finally:
        shutil.rmtree(inside)


def build_wheels(folder: Path) -> list[Path]:
    """Of the tree as it is: xsave, and a plugin that shows how others' state comes along."""
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--wheel-dir", folder, TREE, TREE / "plugins_contrib" / "xsave-vtpm",
    )  # fmt: skip
    return sorted(folder.glob("xsave*.whl"))
