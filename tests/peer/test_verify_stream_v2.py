"""What xsave writes is accepted by Xen's own checker of streams.

``verify-stream-v2`` comes with Xen (Debian: xen-utils). It reads xl, libxl and libxc
streams; it complains of reserved fields and padding that restorers ignore; and it does not
know checkpoints inside a libxl stream, since it reads libxc up to END.
"""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from attrs import frozen

import xsave
from tests.plugins.xen_stream import build as b

pytestmark = pytest.mark.peer
CODECS = ["none", "zstd:1", "lz4"]


@frozen
class Verdict:
    status: int
    text: str


@frozen
class Checker:
    program: Path

    def check(self, data: bytes | Path, name: str) -> Verdict:
        """Exit status 0: accepted; 1: refused; 2: the checker itself broke.

        It is given a file, since it takes a short read from a pipe for the end.
        """
        if isinstance(data, bytes):
            with tempfile.NamedTemporaryFile() as file:
                file.write(data)
                file.flush()
                return self.check(Path(file.name), name)
        library = self.program.parent.parent / "lib" / "python"
        done = subprocess.run(
            [str(self.program), "--format", name, "--verbose", "--in", str(data)],
            env={**os.environ, "PYTHONPATH": str(library)}, capture_output=True, check=False,
        )  # fmt: skip
        return Verdict(done.returncode, (done.stdout + done.stderr).decode())

    def accepts(self, data: bytes | Path, name: str) -> str:
        verdict = self.check(data, name)
        assert verdict.status == 0, verdict.text
        return verdict.text


@pytest.fixture(scope="module")
def checker(peer: Path) -> Checker:
    return Checker(peer)


def written(
    source: Path | bytes, to: str, manager: xsave.PluginManager, via: str | None = None
) -> bytes:
    """A source as a Xen stream, by way of a native image with a codec if one is named."""
    given: object = io.BytesIO(source) if isinstance(source, bytes) else source
    out = io.BytesIO()
    if via is None:
        xsave.run(given, out, to=to, manager=manager)
        return out.getvalue()
    xsave.run(given, out, to="native", codec=via, manager=manager)
    return written(out.getvalue(), to, manager)


@pytest.mark.parametrize("codec", CODECS)
def test_the_bundled_real_image_is_accepted_after_native(
    codec: str, small_image: Path, checker: Checker, manager: xsave.PluginManager
) -> None:
    for name in ("xl", "libxl"):
        text = checker.accepts(written(small_image, name, manager, via=codec), name)
        assert "Emulator context" in text
        assert "x86 HVM from Xen 4.17" in text


@pytest.mark.images("pv1")
def test_a_real_pv_image_is_accepted_after_native(
    real_image: Path, checker: Checker, manager: xsave.PluginManager, tmp_path: Path
) -> None:
    check_large(real_image, checker, manager, tmp_path)


@pytest.mark.images("pvh1")
def test_a_real_pvh_image_is_accepted_after_native(
    real_image: Path, checker: Checker, manager: xsave.PluginManager, tmp_path: Path
) -> None:
    check_large(real_image, checker, manager, tmp_path)


def check_large(image: Path, checker: Checker, manager: xsave.PluginManager, folder: Path) -> None:
    """None of the two has device-model records, so bare libxc is written too."""
    native, out = folder / "image.xsv", folder / "image"
    xsave.run(image, native, codec="lz4", manager=manager)
    for name in ("xl", "libxl", "libxc"):
        xsave.run(native, out, to=name, manager=manager)
        checker.accepts(out, name)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("guest", [b.hvm, b.pv], ids=["hvm", "pv"])
def test_synthetic_streams_are_accepted_in_every_layer(
    guest: object, version: int, checker: Checker, manager: xsave.PluginManager
) -> None:
    records = b.hvm(version) if guest is b.hvm else b.pv(version)
    data = b.xl(b.libxl(b.libxc(records, version=version)))
    for name in ("xl", "libxl", "libxc"):
        text = checker.accepts(written(data, name, manager), name)
        assert f"Version {version}" in text


@pytest.mark.parametrize("guest", [b.hvm, b.pv], ids=["hvm", "pv"])
def test_either_version_is_accepted_as_the_other(
    guest: object, checker: Checker, manager: xsave.PluginManager
) -> None:
    for old, new in ((2, 3), (3, 2)):
        records = b.hvm(old) if guest is b.hvm else b.pv(old)
        data = written(b.libxc(records, version=old), f"libxc-v{new}", manager)
        assert f"Version {new}" in checker.accepts(data, "libxc")


def test_a_checkpointed_stream_with_an_end_is_accepted(
    checker: Checker, manager: xsave.PluginManager
) -> None:
    for data in (
        b.bare_remus(b.hvm(), [b.hvm_round()] * 2, end=True),
        b.bare_remus(b.pv(), [b.pv_round()], end=True),
    ):
        text = checker.accepts(written(written(data, "native", manager), "libxc", manager), "libxc")
        assert "Checkpoint" in text


def test_a_nested_checkpointed_stream_is_accepted_once_bare(
    checker: Checker, manager: xsave.PluginManager
) -> None:
    nested = b.nested_remus(b.pv(), [b.pv_round()], end=True)
    checker.accepts(written(nested, "libxc", manager), "libxc")


def test_device_model_records_are_accepted(checker: Checker, manager: xsave.PluginManager) -> None:
    data = b.libxl(b.libxc(b.hvm()), [b.emulator(), b.Rec(b.LIBXL_END)])
    assert "Emulator context" in checker.accepts(written(data, "xl", manager, via="zstd"), "xl")


def test_xenstore_records_meet_the_checkers_known_fault_and_no_other(
    checker: Checker, manager: xsave.PluginManager
) -> None:
    """Under Python 3 it takes the last byte for a missing NUL, whatever that byte is. The
    record before and after it, and one without strings, it accepts."""
    closing = [b.emulator(), b.Rec(b.LIBXL_END)]
    for blob, fine in ((b"", True), (b"physmap/0/name\0vram\0", False)):
        records = [b.emulator(b.XENSTORE_DATA, blob), *closing]
        data = written(b.libxl(b.libxc(b.hvm()), records), "libxl", manager)
        verdict = checker.check(data, "libxl")
        assert "Emulator Xenstore Data" in verdict.text
        if fine or verdict.status == 0:  # a later checker may have been mended
            assert verdict.status == 0, verdict.text
        else:
            assert verdict.text.rstrip().endswith("Data not NUL terminated"), verdict.text


def test_the_checker_is_strict_where_restorers_are_not(
    checker: Checker, manager: xsave.PluginManager
) -> None:
    """So its silence on what we write means something: an odd source stays odd."""
    odd = b.libxc([*b.hvm(), b.hvm_params()], header=b.libxc_header(reserved=(1, 0, 0)))
    verdict = checker.check(written(odd, "libxc", manager), "libxc")
    assert verdict.status == 1
    assert "Reserved bits set in image header" in verdict.text
