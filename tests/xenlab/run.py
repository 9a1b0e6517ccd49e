"""All tests of the laboratory: on two hosts at once those that want one, then those that want both.

An emulated host keeps one processor busy, so two of them take half the time. ``make xen`` runs it,
with the releases of Debian that ``XSAVE_XENLAB_RELEASE`` names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.build import build
from lab.errors import LabError
from lab.host import Host, boot_pair
from lab.install import install
from lab.releases import chosen_releases

HERE = Path(__file__).parent
# Of the tests for one host, half the time. Each half keeps its guests: they take long to start.
FIRST_HALF = (str(HERE / "test_helper.py"), str(HERE / "test_save.py"))
BOTH_HOSTS = (str(HERE / "test_migrate.py"),)


def main() -> int:
    releases = chosen_releases()
    hosts = [Host(f"all-{os.getpid()}-{number}") for number in (1, 2)]
    began = time.monotonic()
    try:
        images = [build(release, _say) for release in releases]
        boot_pair(hosts[0], hosts[1], (images[0], images[-1]), _say)
        with tempfile.TemporaryDirectory() as folder:
            install(hosts, Path(folder))
        _say("installed xsave in both")
        if len(set(releases)) > 1:
            results = [_run_tests(hosts, [str(HERE)])]
        else:
            results = [*_run_halves(hosts), _run_tests(hosts, BOTH_HOSTS)]
    except LabError as error:
        print(f"xenlab: {error}", file=sys.stderr)
        return 1
    finally:
        for host in hosts:
            host.stop()
    _say(f"{time.monotonic() - began:.0f} s in all")
    return int(not all(results))


def _run_halves(hosts: Sequence[Host]) -> list[bool]:
    rest = [str(HERE), *(f"--ignore={file}" for file in (*FIRST_HALF, *BOTH_HOSTS))]
    with ThreadPoolExecutor() as pool:
        halves = [
            pool.submit(_run_tests, [host], which)
            for host, which in zip(hosts, (FIRST_HALF, rest), strict=True)
        ]
    return [half.result() for half in halves]


def _run_tests(hosts: Sequence[Host], which: Sequence[str]) -> bool:
    """:returns: whether they passed; what they said has been shown in one piece."""
    names = " ".join(host.name for host in hosts)
    began = time.monotonic()
    _say(f"{names}: {' '.join(which)}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "xen", "--durations=0", *which],
        env={**os.environ, "XSAVE_XENLAB_HOST": names},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    sys.stdout.write(done.stdout.decode(errors="replace"))
    _say(f"{names}: status {done.returncode} after {time.monotonic() - began:.0f} s")
    return done.returncode == 0


def _say(text: str) -> None:
    print(f"xenlab: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
