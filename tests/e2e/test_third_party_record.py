"""A record type from another distribution, end to end, without a file of ours knowing it."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import cbor2
import pytest

import xsave

ROOT = Path(__file__).parents[2]
STATE = cbor2.dumps(
    {"version": 1, "tpm": "2.0", "nvram": {"permanent": b"\1\2\3", "volatile": bytes(40)}},
    canonical=True,
)


def without_vtpm() -> xsave.PluginManager:
    """A machine where the plugin is not installed."""
    manager = xsave.PluginManager()
    for entry in entry_points(group="xsave"):
        if entry.name != "vtpm":
            manager.load_entry_point(entry)
    return manager


@pytest.fixture(scope="module")
def image(
    tmp_path_factory: pytest.TempPathFactory, small_image: Path, manager: xsave.PluginManager
) -> Path:
    path = tmp_path_factory.mktemp("vtpm") / "guest.xsv"
    xsave.run(small_image, path, codec="zstd:1", add={"vtpm.state": STATE}, manager=manager)
    return path


def test_no_file_of_ours_names_the_record() -> None:
    sources = [*ROOT.glob("core/**/*.py"), *ROOT.glob("plugins/**/*.py")]
    assert len(sources) > 50
    assert not [path for path in sources if re.search(r"vtpm\b", path.read_text())]


def test_the_plugin_is_listed_with_its_own_distribution(manager: xsave.PluginManager) -> None:
    status = manager.status("vtpm")
    assert status is not None and not status.error
    assert status.distribution == "xsave-vtpm"
    assert status.provides == {"record handler": ["vtpm.state"]}


def test_the_record_stands_where_its_handler_says(
    image: Path, manager: xsave.PluginManager
) -> None:
    names = [item.name for item in xsave.inspect(image, manager=manager).items]
    assert names.index("vtpm.state") > names.index("xen.libxc.end")
    assert names.index("vtpm.state") < names.index("xen.libxl.end")


def test_the_record_is_decoded_by_its_plugin(image: Path, manager: xsave.PluginManager) -> None:
    found = xsave.read_record(image, "vtpm.state", manager=manager)
    assert bytes(found.record.body) == STATE
    assert found.item.plugin == "vtpm"
    assert found.item.understood


def test_without_the_plugin_the_record_is_listed_with_its_cbor_and_its_owner(image: Path) -> None:
    inspection = xsave.inspect(image, manager=without_vtpm())
    (item,) = [item for item in inspection.items if item.name == "vtpm.state"]
    assert not item.understood
    assert item.plugin == "vtpm"
    assert item.fields["cbor"]["tpm"] == "2.0"


def test_without_the_plugin_the_record_survives_conversion_and_is_reported(
    image: Path, manager: xsave.PluginManager
) -> None:
    copied = io.BytesIO()
    report = xsave.run(image, copied, codec="none", manager=without_vtpm())
    assert report.carried == ["vtpm.state"]
    copied.seek(0)
    found = xsave.read_record(copied, "vtpm.state", manager=manager)
    assert bytes(found.record.body) == STATE
    assert found.record.type.owner == xsave.Owner("vtpm", found.record.type.owner.distribution)
    assert found.record.type.owner.distribution.startswith("xsave-vtpm ")


def test_back_in_xl_the_record_is_left_out_and_said_so_and_the_rest_is_the_original(
    image: Path, small_image: Path, manager: xsave.PluginManager
) -> None:
    back = io.BytesIO()
    report = xsave.run(image, back, to="xl", manager=manager)
    assert report.left_out == {"vtpm.state": 1}
    assert report.partial
    assert back.getvalue() == small_image.read_bytes()


def test_a_wrong_body_is_refused_before_anything_is_written(
    tmp_path: Path, small_image: Path, manager: xsave.PluginManager
) -> None:
    with pytest.raises(xsave.UsageError, match=r"the body given for vtpm\.state is wrong"):
        xsave.run(small_image, tmp_path / "x.xsv", add={"vtpm.state": b"?"}, manager=manager)
    assert list(tmp_path.iterdir()) == []


def test_plugins_chosen_without_it_carry_it_and_those_with_it_handle_it(
    image: Path, manager: xsave.PluginManager
) -> None:
    left = xsave.run(image, io.BytesIO(), plugins=["hvm"], manager=manager)
    taken = xsave.run(image, io.BytesIO(), plugins=["hvm", "vtpm"], manager=manager)
    assert (left.carried, taken.carried) == (["vtpm.state"], [])


def test_a_mandatory_record_of_a_plugin_not_chosen_stops_the_run_with_its_name(
    image: Path, tmp_path: Path, manager: xsave.PluginManager
) -> None:
    with pytest.raises(xsave.MissingPluginError, match="belongs to plugin hvm") as caught:
        xsave.run(image, tmp_path / "x.xsv", plugins=["tmem", "x86"], manager=manager)
    assert caught.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_plugin_lists_the_known_ones(image: Path, manager: xsave.PluginManager) -> None:
    with pytest.raises(xsave.UnknownNameError, match=r"no plugin is named 'hwm'; known: .*hvm"):
        xsave.run(image, io.BytesIO(), plugins=["hwm"], manager=manager)


def test_the_same_through_the_command(tmp_path: Path, small_image: Path) -> None:
    body = tmp_path / "tpm.cbor"
    body.write_bytes(STATE)
    image, back = tmp_path / "guest.xsv", tmp_path / "guest.xl"

    def xsave_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "xsave", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    made = xsave_command("run", small_image, image, "--add", f"vtpm.state={body}")
    assert made.returncode == 0, made.stderr
    returned = xsave_command("run", image, back, "--to", "xl")
    assert returned.returncode == 6
    assert "vtpm.state" in returned.stderr
    assert back.read_bytes() == small_image.read_bytes()
