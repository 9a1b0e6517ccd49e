from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import xsave

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Enter = Callable[..., dict[str, str]]
Valid = Callable[[bytes | str], dict[str, Any]]
BROKEN = "raise ImportError('no module named flux')\n"


def test_every_plugin_is_listed_with_what_it_provides(
    run_xsave: Run, acme: dict[str, str], manager: xsave.PluginManager
) -> None:
    done = run_xsave("plugins", env=acme)
    assert done.returncode == 0
    lines = [line.split() for line in done.stdout.decode().splitlines()]
    assert lines[0] == ["PLUGIN", "VERSION", "STATUS", "CONTRACT", "LOAD", "PROVIDES", "HOOKS"]
    listed = {line[0] for line in lines[1:]}
    assert listed == {status.name for status in manager.plugins} | {"acme"}
    (row,) = (line for line in lines if line[0] == "acme")
    assert row[1:5] == ["xsave-acme", "1.0", "loaded", "1-1"]
    assert row[7:] == ["2", "records;", "format", "acme", "register_formats,", "register_handlers"]


def test_json_has_all_that_is_known(
    run_xsave: Run, acme: dict[str, str], valid: Valid, manager: xsave.PluginManager
) -> None:
    plugins = {
        p["name"]: p for p in valid(run_xsave("plugins", "--json", env=acme).stdout)["plugins"]
    }
    for status in manager.plugins:
        shown = plugins[status.name]
        assert shown["hooks"] == status.hooks
        for kind, names in status.provides.items():
            assert sorted(item["name"] for item in shown["provides"][kind]) == sorted(names)
    records = plugins["acme"]["provides"]["record handler"]
    assert [(r["name"], r["mandatory"], r["phase"]) for r in records] == [
        ("acme.note", False, "device_model"), ("acme.seal", True, "device_model"),
    ]  # fmt: skip
    assert plugins["acme"]["provides"]["format"][0]["writable"] is False
    assert plugins["zstd"]["provides"]["codec"][0]["levels"] == [1, 19]


def test_a_failed_plugin_is_shown_clearly_and_costs_only_itself(
    run_xsave: Run, enter_plugin: Enter, tmp_path: Path, valid: Valid
) -> None:
    env = enter_plugin(tmp_path, "flux", BROKEN)
    done = run_xsave("plugins", env=env)
    assert done.returncode == 0
    text = done.stdout.decode()
    assert "flux FAILED to load: " in text
    assert "no module named flux" in text
    shown = valid(run_xsave("plugins", "flux", "--json", env=env).stdout)["plugins"]
    assert [(p["name"], p["status"], p["contract"]) for p in shown] == [("flux", "failed", None)]
    assert "no module named flux" in shown[0]["error"]
    detail = run_xsave("plugins", "flux", env=env).stdout.decode()
    assert "status  FAILED: " in detail


def test_one_plugin_lists_its_records_in_the_order_of_a_stream(
    run_xsave: Run, manager: xsave.PluginManager
) -> None:
    lines = run_xsave("plugins", "hvm").stdout.decode().splitlines()
    records = [line.split()[0] for line in lines if line.startswith("    xen.")]
    assert records == [name for name in manager.record_order() if name.startswith("xen.hvm.")]
    status = manager.status("hvm")
    assert status is not None
    assert status.info is not None
    assert f"  needs  {', '.join(sorted(status.info.needs))}" in lines
    for name in records:
        entry = manager.handlers.get(name)
        assert entry is not None
        assert any(name in line and entry.item.summary in line for line in lines)


def test_an_unknown_plugin_is_a_usage_error_that_lists_the_known_ones(run_xsave: Run) -> None:
    done = run_xsave("plugins", "nix")
    assert done.returncode == 2
    assert b"no plugin is named 'nix'; known: brotli, " in done.stderr


@pytest.mark.parametrize("command", ["plugins", "verify", "doctor"])
def test_two_plugins_of_one_name_are_an_error_that_names_both(
    run_xsave: Run, enter_plugin: Enter, tmp_path: Path, command: str, small_image: Path
) -> None:
    enter_plugin(tmp_path, "flux", BROKEN, distribution="flux-one")
    env = enter_plugin(tmp_path, "flux", BROKEN, distribution="flux-two")
    done = run_xsave(command, *([small_image] if command == "verify" else []), env=env)
    assert done.returncode == (1 if command == "doctor" else 5)
    text = (done.stdout + done.stderr).decode()
    assert "flux-one" in text
    assert "flux-two" in text
