"""xsave from the tree into dom0 of a host that runs, and a plugin that is not part of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .host import Host
from .wheels import VENV, build_wheels

INSTALLED = "/root/installed"  # says which, so that it takes no time again


def install(hosts: Sequence[Host], folder: Path) -> None:
    """Unless they have it.

    :param folder: where the wheels are made.
    """
    wheels = build_wheels(folder)
    names = " ".join(f"/root/{wheel.name}" for wheel in wheels)
    # the same tree makes the same wheels
    digest = hashlib.sha256(b"".join(wheel.read_bytes() for wheel in wheels)).hexdigest()

    def install_in(host: Host) -> None:
        if host.try_run(f"grep -q {digest} {INSTALLED}")[0] == 0:
            return
        for wheel in wheels:
            host.put(f"/root/{wheel.name}", wheel.read_bytes())
        host.run(
            f"/{VENV}/bin/pip install --quiet --disable-pip-version-check --no-index --no-deps "
            f"--no-compile --force-reinstall {names} && ln -sf /{VENV}/bin/xsave* /usr/local/bin/ "
            f"&& echo {digest} > {INSTALLED}"
        )

    with ThreadPoolExecutor() as pool:
        list(pool.map(install_in, hosts))
