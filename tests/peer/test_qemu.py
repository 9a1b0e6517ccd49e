"""Guests of a real QEMU are saved into images, and started again from them by the same QEMU."""

from __future__ import annotations

import io
import json
import shlex
import sys
from pathlib import Path

import pytest

import xsave
from tests.peer.collect_descriptions import Collected, collect
from tests.peer.qemu import Qemu, counted, find_qemu, firmware, numbers, rest
from xsave.testing import MemorySource
from xsave_plugins.qemu_device.formats import QemuFormat
from xsave_plugins.qemu_device.known import catalogue, known_descriptions
from xsave_plugins.qemu_device.savevm import walk, walk_devices

pytestmark = pytest.mark.qemu
NR_LINES = 150  # more than the guest has pages to fill, many times over
XSAVE = f"{shlex.quote(sys.executable)} -m xsave"


@pytest.fixture(scope="module")
def program() -> Path:
    found = find_qemu()
    assert found is not None, "XSAVE_REQUIRE_PEERS=1, but there is no qemu-system-x86_64"
    return found


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a guest that counts."""
    path = tmp_path_factory.mktemp("firmware") / "counter"
    path.write_bytes(firmware())
    return ["-machine", "pc", "-m", "128M", "-vga", "std", "-bios", str(path)]


@pytest.fixture(scope="module")
def collected(program: Path) -> Collected:
    """What its streams say of a guest such as the one above."""
    return collect([str(program)], ["-machine pc -m 16 -vga std"])


@pytest.fixture
def known(collected: Collected, monkeypatch: pytest.MonkeyPatch) -> str:
    """The version of this QEMU, of which something is known: as the plugin keeps it, or just
    collected, where this is another one."""
    if collected.version not in known_descriptions().versions:
        found = catalogue([collected.text()])
        monkeypatch.setattr("xsave_plugins.qemu_device.savevm.known_descriptions", lambda: found)
    return collected.version


def goes_on(program: Path, guest: list[str], incoming: str, said: bytes) -> None:
    """It counts on from the very byte on the serial line where it was stopped."""
    with Qemu(program, *guest, "-S", "-incoming", "defer") as qemu:
        qemu.load(incoming)
        qemu.execute("cont")
        said += numbers(qemu.serial, NR_LINES)
        qemu.execute("stop")
        assert qemu.quit() == ""
        said += rest(qemu.serial)
    found = counted(said)
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= 2 * NR_LINES


def test_a_guest_goes_on_from_a_native_image_where_it_was_stopped(
    program: Path, guest: list[str], tmp_path: Path, manager: xsave.PluginManager
) -> None:
    stream, native, back = (tmp_path / name for name in ("a.qemu", "a.xsv", "b.qemu"))
    with Qemu(program, *guest) as qemu:
        said = numbers(qemu.serial, NR_LINES)
        qemu.migrate(f"cat > {stream}")
        assert qemu.quit() == ""
        said += rest(qemu.serial)
    report = xsave.run(stream, native, codec="zstd:1", manager=manager)
    assert report.source.details["machine"]
    assert report.nr_pages * 4096 >= 128 << 20
    assert native.stat().st_size < stream.stat().st_size / 4  # zeroes are none, the rest packed
    checked = xsave.verify(native, manager=manager)
    assert checked.source.details["source"]["ram_bytes"] >= 128 << 20
    xsave.run(native, back, manager=manager)
    assert back.read_bytes() == stream.read_bytes()
    goes_on(program, guest, f"cat {back}", said)


def test_a_guest_that_was_saved_while_it_ran_goes_on(
    program: Path, guest: list[str], tmp_path: Path
) -> None:
    """Straight into an image and out of it, through pipes, as the documentation has it."""
    native = tmp_path / "a.xsv"
    with Qemu(program, *guest) as qemu:
        said = numbers(qemu.serial, NR_LINES)
        qemu.migrate(f"{XSAVE} convert - {native} --codec zstd:1 --quiet", stopped=False)
        assert qemu.quit() == ""
        said += rest(qemu.serial)
    found = xsave.inspect(native)
    names = [item.name for item in found.items]
    assert names[:2] == ["qemu.configuration", "qemu.ram.blocks"]
    assert names[-1] == "qemu.devices"
    goes_on(program, guest, f"{XSAVE} convert {native} - --to qemu --quiet", said)


def test_every_device_of_a_stream_is_decoded_without_its_description_as_with_it(
    program: Path, guest: list[str], known: str, tmp_path: Path
) -> None:
    stream = tmp_path / "stream"
    with Qemu(program, *guest, "-S") as qemu:
        qemu.migrate(f"cat > {stream}")
        qemu.quit()
    *_, last = QemuFormat().reader(MemorySource(stream.read_bytes()), xsave.ReadOptions())
    assert isinstance(last, xsave.Record)
    body = bytes(last.body)
    described = walk_devices(body)
    assert described.is_described and described.is_proved
    bare = walk_devices(body[: described.end + 1] if described.end else b"")
    assert known in bare.fits
    assert len(bare.sections) > 20
    for one, other in zip(described.sections, bare.sections, strict=True):
        mine = one.decode(body, "its own description")
        assert other.decode(body, known) == mine, one.name


def test_what_it_saves_for_xen_is_walked_by_known_descriptions_alone(
    program: Path, guest: list[str], known: str, tmp_path: Path, manager: xsave.PluginManager
) -> None:
    record = tmp_path / "record"
    as_for_xen = ["-global", "migration.send-section-footer=off",
                  "-global", "migration.store-global-state=off"]  # fmt: skip
    with Qemu(program, *guest, *as_for_xen, "-S") as qemu:
        qemu.execute("xen-save-devices-state", filename=str(record))
        qemu.quit()
    found = walk(record.read_bytes())
    assert {one.found_by for one in found.sections} == {"known"}
    assert known in found.fits
    assert found.remarks == ()
    shown = xsave.inspect(record, manager=manager)
    (item,) = shown.items
    fields = getattr(item, "fields", {})
    assert f"QEMU {known}" in fields["fits"]
    timer = fields["sections"][0]
    assert set(timer["fields"]) >= {"cpu_ticks_offset", "cpu_clock_offset"}


def test_descriptions_are_collected_from_streams_as_they_are_kept(collected: Collected) -> None:
    told = json.loads(collected.text())
    assert told["machines"] and len(told["devices"]) > 25
    found = catalogue([collected.text()])
    assert found.versions == (collected.version,)
    for name, version_id, shapes in told["devices"]:
        assert len(found.shapes(name, version_id)) == len(shapes) > 0, name
    if collected.version in known_descriptions().versions:
        kept = known_descriptions()
        missing = {
            (name, version_id)
            for name, version_id, _ in told["devices"]
            if collected.version not in {one.qemu for one in kept.shapes(name, version_id)}
        }
        assert not missing


def test_memory_that_stays_outside_is_refused_with_what_to_do(
    program: Path, guest: list[str], tmp_path: Path, manager: xsave.PluginManager
) -> None:
    stream = tmp_path / "stream"
    with Qemu(program, *guest, "-S") as qemu:
        outside = [{"capability": "x-ignore-shared", "state": True}]
        qemu.execute("migrate-set-capabilities", capabilities=outside)
        qemu.migrate(f"cat > {stream}")
        qemu.quit()
    with pytest.raises(
        xsave.RecordError, match="x-ignore-shared: memory that is shared stays outside"
    ):
        xsave.verify(io.BytesIO(stream.read_bytes()), manager=manager)
