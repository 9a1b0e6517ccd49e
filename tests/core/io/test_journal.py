"""The journal: what was written is there after a kill, and what is half-written never counts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import evolve

from xsave import JournalError, OutputError, TryAgainError
from xsave.io.journal import Entry, Journal, state_folder

ID = "0123456789abcdef" * 2
ENTRY = Entry(id=ID, role="source", state="sending", guest="web", backend="sim", locator="x")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def file_of(journal: Journal) -> Path:
    return journal.folder / f"source-{ID}.jsonl"


def test_each_state_is_there_when_it_was_written(journal: Journal) -> None:
    with journal.hold(ID, "source") as held:
        assert held.entry is None
        for state in ("sending", "given", "gone"):
            held.write(evolve(ENTRY, state=state))
            found = journal.find(ID, "source")
            assert found is not None
            assert (found.state, found.guest, found.process) == (state, "web", os.getpid())
    assert [entry.state for entry in journal.history(ID, "source")] == ["sending", "given", "gone"]
    assert len({entry.began for entry in journal.history(ID, "source")}) == 1


def test_it_is_flushed_before_writing_returns(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append("whole"))
    monkeypatch.setattr(os, "fdatasync", lambda fd: flushed.append("line"))
    with journal.hold(ID, "source") as held:
        held.write(ENTRY)
        assert "whole" in flushed
        flushed.clear()
        held.write(evolve(ENTRY, state="given"))
    assert flushed == ["line"]


@pytest.mark.parametrize("cut", [1, 2, 30, 100])
def test_a_line_that_was_being_written_does_not_count(journal: Journal, cut: int) -> None:
    with journal.hold(ID, "source") as held:
        held.write(ENTRY)
        held.write(evolve(ENTRY, state="given"))
    file = file_of(journal)
    file.write_bytes(file.read_bytes()[:-cut])
    found = journal.find(ID, "source")
    assert found is not None
    assert found.state == ("given" if cut == 1 else "sending")


def test_after_a_cut_line_the_next_one_is_whole_again(journal: Journal) -> None:
    with journal.hold(ID, "source") as held:
        held.write(ENTRY)
    with file_of(journal).open("ab") as file:
        file.write(b'0000 {"half')
    with journal.hold(ID, "source") as held:
        held.change("kept")
    found = journal.find(ID, "source")
    assert found is not None
    assert found.state == "kept"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: b"",
        lambda text: b"nonsense\n" * 3,
        lambda text: text.replace(b"sending", b"running", 1),
        lambda text: bytes(300_000),
        lambda text: text.replace(ID.encode(), b"f" * 32),
    ],
)
def test_a_damaged_entry_is_an_error_and_no_guess(journal: Journal, spoil: object) -> None:
    with journal.hold(ID, "source") as held:
        held.write(ENTRY)
        held.write(evolve(ENTRY, state="given"))
    file = file_of(journal)
    file.write_bytes(spoil(file.read_bytes()))  # type: ignore[operator]
    with pytest.raises(JournalError, match=re.escape(str(file))):
        journal.find(ID, "source")


def test_an_entry_is_in_the_hands_of_one_at_a_time(journal: Journal) -> None:
    with journal.hold(ID, "source"), pytest.raises(TryAgainError, match="another process"):
        journal.hold(ID, "source")
    journal.hold(ID, "source").close()
    with journal.hold(ID, "source"):
        journal.hold(ID, "destination").close()  # the other end's is another one


def test_a_process_that_is_killed_lets_go(journal: Journal) -> None:
    code = (
        "import os, signal, sys\nfrom xsave.io.journal import *\n"
        f"held = Journal(sys.argv[1]).hold('{ID}', 'source')\n"
        f"held.write(Entry(id='{ID}', role='source', state='given'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, journal.folder.parent], check=False)
    with journal.hold(ID, "source") as held:
        assert held.entry is not None
        assert held.entry.state == "given"


def test_it_grows_no_further_than_it_may(journal: Journal) -> None:
    with journal.hold(ID, "source") as held:
        for number in range(1500):
            held.write(evolve(ENTRY, remark=f"{number} " + "x" * 300))
    assert file_of(journal).stat().st_size < 300_000
    found = journal.find(ID, "source")
    assert found is not None
    assert found.remark.startswith("1499 ")


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot keep a journal in"):
        Journal(tmp_path / "file").hold(ID, "source")


def test_old_entries_go_and_open_ones_stay(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xsave.io.journal.time.time", lambda: 1e9)
    for number, state in enumerate(("gone", "given")):
        with journal.hold(f"{number:032x}", "source") as held:
            held.write(evolve(ENTRY, id=f"{number:032x}", state=state))
    monkeypatch.setattr("xsave.io.journal.time.time", lambda: 2e9)
    with journal.hold(ID, "source") as held:
        held.write(evolve(ENTRY, state="gone"))
    journal.prune({"source": frozenset({"given"}), "destination": frozenset()})
    assert [(entry.id, entry.state) for entry in journal.entries()] == [
        (f"{1:032x}", "given"),
        (ID, "gone"),
    ]


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XSAVE_STATE", str(tmp_path))
    assert state_folder() == tmp_path
    monkeypatch.delenv("XSAVE_STATE")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert state_folder() == Path("/var/lib/xsave")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "xsave"
