from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import xsave
from xsave.cli import doctor
from xsave.io import folder

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Enter = Callable[..., dict[str, str]]
Valid = Callable[[bytes | str], dict[str, Any]]


def test_a_sound_installation_is_fine(
    run_xsave: Run, tmp_path: Path, valid: Valid, manager: xsave.PluginManager
) -> None:
    done = run_xsave("doctor", "--json", cwd=tmp_path)
    found = valid(done.stdout)
    assert (done.returncode, found["ok"]) == (0, True)
    subjects = {finding["subject"] for finding in found["findings"]}
    assert {"xsave", "python", "extra", "machine", "folder", "terminal"} < subjects
    assert {f"plugin {status.name}" for status in manager.plugins} <= subjects
    assert not list(tmp_path.iterdir())
    text = run_xsave("doctor").stdout.decode()
    assert text.endswith("\nall is well\n")


def test_what_is_not_fine_comes_with_a_remedy(
    run_xsave: Run, enter_plugin: Enter, tmp_path: Path, valid: Valid
) -> None:
    env = enter_plugin(tmp_path, "flux", "raise ImportError('no module named flux')\n")
    done = run_xsave("doctor", "--json", env=env)
    found = valid(done.stdout)
    assert (done.returncode, found["ok"]) == (1, False)
    (wrong,) = (finding for finding in found["findings"] if finding["status"] == "wrong")
    assert wrong["subject"] == "plugin flux"
    assert "xsave-flux" in wrong["remedy"]
    text = run_xsave("doctor", env=env).stdout.decode()
    assert "to mend it: mend or update its distribution xsave-flux" in text
    assert text.endswith("\n1 to mend\n")


PATIENT = """
from xsave import PluginInfo, hookimpl

PLUGIN = PluginInfo(name="patient", summary="is unwell", contract=(1, 1))

@hookimpl
def xsave_doctor(report):
    report("pulse", False, "start its daemon: systemctl start pulse")
"""


def test_a_plugin_says_itself_how_to_mend_it(
    run_xsave: Run, enter_plugin: Enter, tmp_path: Path
) -> None:
    done = run_xsave("doctor", env=enter_plugin(tmp_path, "patient", PATIENT))
    assert done.returncode == 1
    assert b"to mend it: start its daemon: systemctl start pulse" in done.stdout


def test_a_folder_where_nothing_can_be_written_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    (finding,) = (f for f in doctor.examine() if f.subject == "folder")
    assert (finding.status, finding.remedy != "") == ("note", True)


def test_a_folder_without_unnamed_files_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    facts = folder.FolderFacts("", unnamed_files=False, free_bytes=1)
    monkeypatch.setattr(folder, "examine_folder", lambda _folder: facts)
    found = {f.what: f for f in doctor.examine() if f.subject == "folder"}
    assert found["unnamed files"].status == "note"
    assert found["unnamed files"].remedy


def test_an_extra_that_is_missing_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package == "rich":
            raise metadata.PackageNotFoundError
        return "1"

    monkeypatch.setattr(metadata, "version", version)
    (finding,) = (f for f in doctor.examine() if f.subject == "extra")
    assert (finding.status, finding.remedy) == ("note", "pip install 'xsave[rich]'")


def test_examining_a_folder_finds_out_and_leaves_nothing(tmp_path: Path) -> None:
    facts = folder.examine_folder(str(tmp_path))
    assert facts.error == ""
    assert facts.free_bytes > 0
    assert not list(tmp_path.iterdir())
    assert folder.examine_folder(str(tmp_path / "nothing")).error == "No such file or directory"
