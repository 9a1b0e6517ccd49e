"""What tests of all folders share: where real images and other programs are, and which
tests are left out where this machine has none.

Tests marked ``peer`` need Xen's ``verify-stream-v2``, tests marked ``qemu`` the system emulator of
x86, tests marked ``browser`` Chromium, tests marked ``sshd`` a server for ssh, tests marked
``images`` the larger real images. Without them they are deselected, and the summary says so; with
``XSAVE_REQUIRE_PEERS=1`` those marked ``peer`` or ``qemu`` are run all the same, and fail.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import xsave
from tests.peer.qemu import find_qemu

GUEST_THREADS = "sim "  # what the names of the simulated host's threads begin with


@pytest.fixture(autouse=True)
def no_guest_runs_on() -> Iterator[None]:
    """A guest that ran on after its test would disturb others: those that measure memory
    with tracemalloc, which CPython 3.11 may crash in when a thread goes on meanwhile."""
    yield
    if any(thread.name.startswith(GUEST_THREADS) for thread in threading.enumerate()):
        gc.collect()  # a guest that nobody knows any more ends by itself
        for thread in threading.enumerate():
            if thread.name.startswith(GUEST_THREADS):
                thread.join(60)
                assert not thread.is_alive(), f"{thread.name} runs on after the test"


DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def manager() -> xsave.PluginManager:
    """All installed plugins, loaded once."""
    return xsave.build_manager()


@pytest.fixture(scope="session")
def small_image(tmp_path_factory: pytest.TempPathFactory, manager: xsave.PluginManager) -> Path:
    """The bundled real image: an HVM guest of 16 MB, saved by Xen 4.17.5, unpacked."""
    path = tmp_path_factory.mktemp("images") / "hvmbios.save"
    packed = (DATA / "hvmbios.save.zst").read_bytes()
    codec = manager.codecs.find("zstd")
    position = 0

    def read(size_bytes: int) -> bytes:
        nonlocal position
        piece = packed[position : position + size_bytes]
        position += len(piece)
        return piece

    unpacked = codec.open_stream(read)
    with path.open("wb") as file:
        while piece := unpacked(1 << 20):
            file.write(piece)
    return path


def find_image(name: str) -> Path | None:
    """A larger real image, if this machine has it: in the folder ``XSAVE_IMAGES`` names, as
    ``NAME.save`` (with what xl puts before a stream) or ``NAME.libxc`` (without); or made by xsave,
    ``NAME.xsv``."""
    folder = os.environ.get("XSAVE_IMAGES")
    endings = (".save", ".libxc", ".xsv")
    paths = [Path(folder, f"{name}{ending}") for ending in endings] if folder else []
    return next((path for path in paths if path.exists()), None)


def find_peer() -> Path | None:
    """Xen's own checker of streams, the newest if there are several."""
    found = sorted(Path("/usr/lib").glob("xen-*/bin/verify-stream-v2"))
    return found[-1] if found else None


def find_browser() -> Path | None:
    """Chromium, as Debian or others install it."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next((Path(path) for path in found if path is not None), None)


def can_serve_ssh() -> bool:
    """A server of one's own needs a folder that its package or its first start makes."""
    return Path("/usr/sbin/sshd").exists() and Path("/run/sshd").is_dir() and os.geteuid() == 0


def find_vmlinux(release: str) -> Path | None:
    """A Linux kernel with its debug information: Debian's ``linux-image-RELEASE-dbg`` has it, or
    ``XSAVE_VMLINUX`` names the file or a folder with it."""
    name = f"vmlinux-{release}"
    paths = [Path("/usr/lib/debug/boot", name)]
    if named := os.environ.get("XSAVE_VMLINUX"):
        paths = [Path(named), Path(named, name), *paths]
    return next((path for path in paths if path.is_file() and path.name == name), None)


def peers_are_required() -> bool:
    return os.environ.get("XSAVE_REQUIRE_PEERS") == "1"


_left_out = pytest.StashKey[dict[str, int]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out: dict[str, int] = {}
    config.stash[_left_out] = left_out
    kept: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    wants_xen = re.search(r"(?<!not )\bxen\b", config.option.markexpr) is not None
    for item in items:
        missing = list(_missing(item))
        if item.get_closest_marker("xen") is not None and not wants_xen:
            missing.append("they run on a real Xen host, with: make xen")
        (deselected if missing else kept).append(item)
        for reason in missing[:1]:
            left_out[reason] = left_out.get(reason, 0) + 1
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = kept


def _missing(item: pytest.Item) -> Iterator[str]:
    needs_peer = item.get_closest_marker("peer") is not None
    if needs_peer and find_peer() is None and not peers_are_required():
        yield "there is no /usr/lib/xen-*/bin/verify-stream-v2 (Debian: xen-utils)"
    needs_qemu = item.get_closest_marker("qemu") is not None
    if needs_qemu and find_qemu() is None and not peers_are_required():
        yield "there is no qemu-system-x86_64 (Debian: qemu-system-x86)"
    if item.get_closest_marker("sshd") is not None and not can_serve_ssh():
        yield "there is no sshd that could be started (Debian: openssh-server, as root)"
    if item.get_closest_marker("browser") is not None and find_browser() is None:
        yield "there is no browser (Debian: chromium)"
    if item.get_closest_marker("gdb") is not None and shutil.which("gdb") is None:
        yield "there is no gdb (Debian: gdb)"
    if item.get_closest_marker("crash") is not None and shutil.which("crash") is None:
        yield "there is no crash (Debian: crash)"
    for marker in item.iter_markers("vmlinux"):
        if find_vmlinux(marker.args[0]) is None:
            name = marker.args[0]
            yield f"there is no debug information of Linux {name} (Debian: linux-image-{name}-dbg)"
    for marker in item.iter_markers("images"):
        names = marker.args or ("pv1", "pvh1", "hvmbios")
        if any(find_image(name) is None for name in names):
            yield "XSAVE_IMAGES names no folder with the larger real images"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for reason, count in config.stash.get(_left_out, {}).items():
        terminalreporter.write_line(f"{count} tests were left out: {reason}", yellow=True)


@pytest.fixture(scope="session")
def peer() -> Path:
    """``verify-stream-v2``; fails where it was required and is not there."""
    program = find_peer()
    assert program is not None, "XSAVE_REQUIRE_PEERS=1, but there is no verify-stream-v2"
    return program


@pytest.fixture(scope="session")
def browser() -> Path:
    """Chromium; fails where it was required and is not there."""
    program = find_browser()
    assert program is not None, "XSAVE_REQUIRE_PEERS=1, but there is no chromium"
    return program


@pytest.fixture
def vmlinux(request: pytest.FixtureRequest) -> Path:
    """The kernel with debug information named by the test's ``vmlinux`` marker."""
    marker = request.node.get_closest_marker("vmlinux")
    assert marker is not None
    path = find_vmlinux(marker.args[0])
    assert path is not None, f"there is no vmlinux-{marker.args[0]}"
    return path


@pytest.fixture
def real_image(request: pytest.FixtureRequest) -> Path:
    """The larger real image named by the test's ``images`` marker."""
    marker = request.node.get_closest_marker("images")
    assert marker is not None and marker.args, "mark the test: images(NAME)"
    path = find_image(marker.args[0])
    assert path is not None, f"XSAVE_IMAGES has no {marker.args[0]}"
    return path
