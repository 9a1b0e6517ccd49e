"""Running other programs, with their output in the message when they fail."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from .errors import LabError

# Program to the Debian package it comes from.
PROGRAMS = {
    "debootstrap": "debootstrap",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "mkfs.ext4": "e2fsprogs",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "as": "binutils",
    "ld": "binutils",
}
SHOWN_CHARS = 4000
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # where debootstrap and mkfs are


def missing_packages() -> list[str]:
    """Debian's packages that this machine lacks for the laboratory."""
    lacking = {package for name, package in PROGRAMS.items() if not shutil.which(name, path=_PATH)}
    return sorted(lacking)


def need_programs() -> None:
    """:raises LabError: says what to install."""
    if lacking := missing_packages():
        raise LabError(f"the laboratory needs: apt-get install {' '.join(lacking)}")


def run(
    *argv: str | Path, stdin: bytes | None = None, cwd: Path | None = None,
    env: Mapping[str, str] | None = None, good: Iterable[int] = (0,),
) -> bytes:  # fmt: skip
    """:returns: its standard output.
    :raises LabError: it failed; the end of what it said is in the message.
    """
    done = subprocess.run(
        [str(one) for one in argv],
        input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
        cwd=cwd, env={**os.environ, "PATH": _PATH, **(env or {})},
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode not in good:
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        raise LabError(
            f"{' '.join(map(str, argv))} failed with {done.returncode}:\n{said[-SHOWN_CHARS:]}"
        )
    return done.stdout
