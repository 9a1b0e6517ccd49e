"""What a legacy image becomes is what Xen's own converter makes of it, byte for byte.

``convert-legacy-stream`` comes with Xen (Debian: xen-utils). Where it can do the job, that is:
it knows no tmem, no compression, two of the three signatures of a device model's state not at
all, of a checkpointed stream only the first round; and it drops the list of unmapped pfns.
What we write of all of those is shown to Xen's checker instead.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import xsave
from tests.peer.test_verify_stream_v2 import Checker
from tests.plugins.legacy import build as o
from tests.plugins.legacy.streams import convert
from xsave import GuestType

pytestmark = pytest.mark.peer
Convert = Callable[[bytes, int, GuestType, str], bytes]


@pytest.fixture(scope="module")
def checker(peer: Path) -> Checker:
    return Checker(peer)


@pytest.fixture
def theirs(peer: Path, tmp_path: Path) -> Convert:
    """The converter: a bare legacy stream, word size, guest, libxl or libxc."""
    program = peer.with_name("convert-legacy-stream")
    library = peer.parent.parent / "lib" / "python"

    def run(data: bytes, word_size: int, guest: GuestType, to: str) -> bytes:
        before, after = tmp_path / "before", tmp_path / "after"
        before.write_bytes(data)
        subprocess.run(
            [str(program), "--in", str(before), "--out", str(after), "--format", to,
             "--width", str(8 * word_size), "--guest-type", guest.value.removeprefix("x86_"),
             "--skip-qemu"],
            env={**os.environ, "PYTHONPATH": str(library)}, check=True, capture_output=True,
        )  # fmt: skip
        return after.read_bytes()

    return run


IMAGES = {
    "pv": (o.pv, GuestType.X86_PV), "hvm": (o.hvm, GuestType.X86_HVM),
    "pv vcpus": (
        lambda w: o.pv_head(w) + o.pv_pages(w) + o.vcpu_info(70, [0, 3, 70]) + o.chunk(o.END)
        + o.pv_tail(w, vcpus=o.vcpu() * 3), GuestType.X86_PV,
    ),
    "pv 4.0": (
        lambda w: o.pv_head(w, o.extended_info(w)) + o.tsc_info() + o.pv_pages(w)
        + o.vcpu_info() + o.chunk(o.END) + o.pv_tail(w, vcpus=o.vcpu(xsave=False)),
        GuestType.X86_PV,
    ),
    "hvm all parameters": (
        lambda w: o.hvm_head(w) + b"".join(o.param(n, 7 - n) for n in (
            o.GENERATION_ID, o.IDENT_PT, o.PAGING_RING, o.ACCESS_RING, o.SHARING_RING,
            o.VM86_TSS, o.CONSOLE_PFN, o.ACPI_IOPORTS, o.VIRIDIAN)) + o.hvm_body(w)
        + o.hvm_tail() + o.qemu(), GuestType.X86_HVM,
    ),
}  # fmt: skip


@pytest.mark.parametrize("w", [4, 8])
@pytest.mark.parametrize("name", IMAGES)
def test_the_result_is_the_converters(
    name: str, w: int, theirs: Convert, manager: xsave.PluginManager
) -> None:
    make, guest = IMAGES[name]
    assert convert(make(w), "libxl", manager) == theirs(make(w), w, guest, "libxl")


@pytest.mark.parametrize("w", [4, 8])
def test_so_is_the_bare_libxc_stream(w: int, theirs: Convert, manager: xsave.PluginManager) -> None:
    assert convert(o.pv(w), "libxc", manager) == theirs(o.pv(w), w, GuestType.X86_PV, "libxc")


@pytest.mark.parametrize("name", o.images())
def test_the_checker_accepts_what_any_image_becomes(
    name: str, checker: Checker, manager: xsave.PluginManager
) -> None:
    """As a libxc stream, which it reads whole also when it is checkpointed; of a libxl stream
    it would refuse all xenstore data (see test_verify_stream_v2.py)."""
    lost = ["xen.tmem", "xen.qemu"]
    data = convert(o.images()[name], "libxc", manager, allow_loss=lost)
    assert "legacy converted" in checker.accepts(data, "libxc")


@pytest.mark.parametrize("w", [4, 8])
def test_the_checker_accepts_the_whole_libxl_stream(
    w: int, checker: Checker, manager: xsave.PluginManager
) -> None:
    for signature in (b"RemusDeviceModelState", b"DeviceModelRecord0002"):
        body = o.hvm_body(w).replace(o.toolstack(w, o.PHYSMAP), o.toolstack(w))
        stream = o.xl(o.hvm_head(w) + body + o.hvm_tail() + o.qemu(signature))
        text = checker.accepts(convert(stream, "xl", manager), "xl")
        assert "Emulator context" in text


@pytest.mark.images("xen455_ts32_pvpae_plain", "xen455_hvm_plain")
def test_real_images_become_what_the_converter_makes_of_them(
    theirs: Convert, manager: xsave.PluginManager
) -> None:
    from tests.conftest import find_image

    for name, guest in (
        ("xen455_ts32_pvpae_plain", GuestType.X86_PV), ("xen455_hvm_plain", GuestType.X86_HVM)
    ):  # fmt: skip
        path = find_image(name)
        assert path is not None
        data = path.read_bytes()
        if data.startswith(b"Xen saved domain"):  # the converter cannot read its magic
            data = data[48 + int.from_bytes(data[44:48], "little") :]
        w = 4 if "ts32" in name else 8
        assert convert(data, "libxl", manager) == theirs(data, w, guest, "libxl")
