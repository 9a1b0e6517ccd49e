"""A TPM that lies on the host goes with its guest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from xsave import XsaveError

from xsave_vtpm import VtpmHandler, VtpmState
from xsave_vtpm.swtpm import read_state, write_state

UUID = "6a12f2f0-7f6c-4b6e-9d5a-0123456789ab"
STATE = VtpmState("2.0", {"permanent": b"\x01" * 40, "volatile": b"now"})


def domain(**details: Any) -> Any:
    return SimpleNamespace(info=SimpleNamespace(details=details))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XSAVE_VTPM_FOLDER", str(tmp_path))
    return tmp_path / UUID


def test_what_was_there_is_there_again(folder: Path) -> None:
    write_state(folder, STATE)
    (found,) = VtpmHandler().collect(domain(uuid=UUID))
    assert found == STATE
    for file in folder.iterdir():
        file.unlink()
    VtpmHandler().apply(domain(uuid=UUID), found)
    assert (folder / "tpm2-00.permall").read_bytes() == b"\x01" * 40
    assert (folder / "tpm2-00.volatilestate").read_bytes() == b"now"
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}


def test_an_earlier_state_is_gone(folder: Path) -> None:
    write_state(folder, STATE)
    write_state(folder, VtpmState("1.2", {"permanent": b"old"}))
    assert [file.name for file in folder.iterdir()] == ["tpm-00.permall"]
    assert read_state(folder) == VtpmState("1.2", {"permanent": b"old"})


@pytest.mark.parametrize("details", [{}, {"uuid": UUID}, {"uuid": "../../etc"}, {"uuid": 7}])
def test_a_guest_without_one_has_no_record(folder: Path, details: dict[str, Any]) -> None:
    assert list(VtpmHandler().collect(domain(**details))) == []


def test_a_domain_that_nobody_can_name_gets_none(folder: Path) -> None:
    with pytest.raises(XsaveError, match="has no uuid"):
        VtpmHandler().apply(domain(), STATE)


def test_what_swtpm_does_not_know_is_refused(folder: Path) -> None:
    with pytest.raises(XsaveError, match="keeps no 'more'"):
        write_state(folder, VtpmState("2.0", {"more": b""}))
    assert not folder.exists()


def test_a_place_that_cannot_be_written_is_named(folder: Path) -> None:
    folder.write_bytes(b"a file")
    with pytest.raises(XsaveError, match=f"{UUID}: File exists"):
        write_state(folder, STATE)
