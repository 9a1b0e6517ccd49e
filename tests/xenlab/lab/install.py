"""xsave from the tree into dom0 of a host that runs."""

from __future__ import annotations

from pathlib import Path

from .host import Host
from .wheels import VENV, build_wheel


def install(host: Host, folder: Path) -> None:
    """:param folder: where the wheel is made."""
    wheel = build_wheel(folder)
    place = f"/root/{wheel.name}"
    host.put(place, wheel.read_bytes())
    host.run(
        f"/{VENV}/bin/pip install --quiet --disable-pip-version-check --no-index --no-deps "
        f"--force-reinstall {place} && ln -sf /{VENV}/bin/xsave* /usr/local/bin/"
    )
