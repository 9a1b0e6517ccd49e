"""A stream with checkpoints: wherever it breaks off, the standby is the guest as it was at the
last whole one; and the guest runs in one place."""

from __future__ import annotations

import io
import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import xsave
from tests.e2e.checkpointed import Watched, boot, events, record
from xsave import BrokenOffError, CancelledError, Checkpoints

GUESTS = ("pv", "pvh", "hvm")
MARK = {"native": "xen.libxl.checkpoint_end", "libxl": "xen.libxl.checkpoint_end",
        "libxc": "xen.libxc.checkpoint"}  # fmt: skip
COUNT = 3
_numbers = itertools.count()

# Device-model records have no place in bare libxc; tmem's have one in native only.
STREAMS = [
    *[(kind, "libxl", "workload=random&dirty=20M/s") for kind in GUESTS],
    ("pv", "libxc", "workload=ballooning&dirty=20M/s"),
    ("pv", "native", "workload=random&dirty=20M/s&tmem=40&tmem_rate=2000"),
    ("hvm", "native", "workload=sequential&dirty=40M/s&tmem=40&tmem_rate=2000"),
]  # fmt: skip


@pytest.fixture(scope="module")
def watched(manager: xsave.PluginManager) -> Iterator[list[Watched]]:
    made: list[Watched] = []
    yield made
    for one in made:
        one.end()


@pytest.fixture
def standby() -> str:
    return f"standby{next(_numbers)}"


def arrived(manager: xsave.PluginManager, name: str) -> Any:
    backend: Any = manager.backends.find("sim")
    return backend.host("b").guests.get(name)


def restore(data: bytes, name: str, manager: xsave.PluginManager, **options: Any) -> Any:
    """Its error, or its report."""
    try:
        return xsave.run(
            io.BytesIO(data), f"sim:?host=b&name={name}&clock=manual", manager=manager, **options
        )
    except xsave.XsaveError as error:
        return error


@pytest.mark.parametrize(("kind", "to", "options"), STREAMS, ids=lambda value: value[:6])
def test_wherever_it_breaks_off_the_standby_is_as_of_the_last_whole_checkpoint(
    kind: str, to: str, options: str, manager: xsave.PluginManager, standby: str
) -> None:
    source = boot(manager, kind, options)
    data = record(source, to, COUNT)
    assert len(source.pauses) == COUNT
    assert len({str(one) for one in source.pauses}) == COUNT  # each of them another guest
    source.end()
    found = list(events(data, manager))
    names = [event.name for event in found]
    assert names.count(MARK[to]) == COUNT
    first = names.index(MARK[to])
    # All boundaries of the rounds, and some of the first state.
    for place in [1, first // 2, *range(first, len(found))]:
        cut = data[: found[place].offset]
        whole = names[:place].count(MARK[to])
        said = restore(cut, standby, manager)
        guest = arrived(manager, standby)
        if not whole:
            assert isinstance(said, xsave.TruncatedError)
            assert guest is None
            continue
        assert isinstance(said, BrokenOffError), place
        assert (said.exit_code, said.name, said.nr_checkpoints) == (7, standby, whole)
        assert not guest.is_running
        assert guest.fingerprint().as_digests() == source.pauses[whole - 1], (place, names[place])
        guest.resume()  # what was restored is a guest that can run
        guest.destroy()


def test_a_break_within_a_record_is_one_too(manager: xsave.PluginManager, standby: str) -> None:
    source = boot(manager, "pv", "workload=random&dirty=20M/s")
    data = record(source, "libxl", 2)
    source.end()
    last = [event.offset for event in events(data, manager) if event.name == MARK["libxl"]][-1]
    for cut in (last - 1, last + 1, last + 7):
        assert isinstance(restore(data[:cut], standby, manager), BrokenOffError)
        guest = arrived(manager, standby)
        assert guest.fingerprint().as_digests() == source.pauses[0]
        guest.destroy()


def test_damage_in_a_round_leaves_the_checkpoint_before_it(
    manager: xsave.PluginManager, standby: str
) -> None:
    source = boot(manager, "pvh", "workload=random&dirty=20M/s")
    data = bytearray(record(source, "native", 2))
    source.end()
    pages = [event.offset for event in events(bytes(data), manager) if event.name.endswith("data")]
    data[pages[-1] + 5000] ^= 1
    said = restore(bytes(data), standby, manager)
    assert isinstance(said, BrokenOffError)
    assert "is damaged" in str(said)
    guest = arrived(manager, standby)
    assert guest.fingerprint().as_digests() == source.pauses[0]
    guest.destroy()


@pytest.mark.parametrize("to", ["native", "libxl", "libxc"])
def test_who_is_told_to_takes_over_and_others_never_run(
    to: str, manager: xsave.PluginManager, standby: str
) -> None:
    source = boot(manager, "pv", "workload=random&dirty=20M/s")
    data = record(source, to, 2)
    source.end()
    last = [event for event in events(data, manager) if event.name == MARK[to]][-1]
    for sent, broke in ((data, False), (data[: last.offset], True)):
        for takes_over in (False, True):
            said = restore(sent, standby, manager, take_over=takes_over)
            guest = arrived(manager, standby)
            assert guest.is_running == takes_over
            if broke and not takes_over:
                assert isinstance(said, BrokenOffError)
            else:
                assert said.standby.running == takes_over
                assert said.standby.nr_checkpoints == 2 - broke
                assert bool(said.standby.broke) == broke
            guest.destroy()


def test_a_captured_stream_that_stops_at_a_checkpoint_is_valid_and_makes_no_guest_run(
    manager: xsave.PluginManager, standby: str
) -> None:
    source = boot(manager, "pv", "workload=random&dirty=20M/s")
    data = record(source, "libxc", 2)
    source.end()
    end = list(events(data, manager))[-1]
    captured = data[: end.offset]
    assert xsave.verify(io.BytesIO(captured), manager=manager).records[MARK["libxc"]].count == 2
    again = io.BytesIO()
    xsave.run(io.BytesIO(captured), again, to="libxc", manager=manager)
    assert again.getvalue() == captured
    said = restore(captured, standby, manager)
    assert isinstance(said, BrokenOffError)
    assert "it stops at a checkpoint" in str(said)
    guest = arrived(manager, standby)
    assert guest.fingerprint().as_digests() == source.pauses[1]
    guest.destroy()


@pytest.mark.parametrize("kind", GUESTS)
def test_a_standby_follows_a_guest_directly(
    kind: str, manager: xsave.PluginManager, standby: str
) -> None:
    source = boot(manager, kind, "workload=random&dirty=20M/s&tmem=40", clock="real")
    report = xsave.run(
        source.address, f"sim:?host=b&name={standby}", checkpoint=Checkpoints(0.01, 5),
        manager=manager,
    )  # fmt: skip
    guest = arrived(manager, standby)
    assert source.guest.is_running
    assert not guest.is_running
    assert report.standby == xsave.progress.StandbyReport(standby, 5, "", False)
    assert guest.fingerprint().as_digests() == source.pauses[-1]
    guest.destroy()
    source.end()


def test_at_the_end_it_moves_there_if_that_was_asked_for(
    manager: xsave.PluginManager, standby: str
) -> None:
    source = boot(manager, "pv", "workload=random&dirty=20M/s", clock="real")
    report = xsave.run(
        source.address, f"sim:?host=b&name={standby}", checkpoint=Checkpoints(0.01, 2),
        then="destroy", manager=manager,
    )  # fmt: skip
    guest = arrived(manager, standby)
    assert not source.guest.is_alive
    assert guest.is_running
    assert report.standby is not None
    assert report.standby.running
    guest.destroy()


@pytest.mark.parametrize("live", [True, False])
def test_cancelled_at_any_event_the_source_runs_and_the_standby_is_at_a_checkpoint(
    live: bool, manager: xsave.PluginManager, standby: str
) -> None:
    source = boot(manager, "pv", "workload=random&dirty=20M/s&tmem=20", clock="real")
    seen = 0
    for after in itertools.count(0, 3):
        source.pauses.clear()
        answers = itertools.chain(itertools.repeat(False, after), itertools.repeat(True))
        try:
            report = xsave.run(
                source.address, f"sim:?host=b&name={standby}", checkpoint=Checkpoints(0.0, 3),
                live=live, manager=manager, cancelled=answers.__next__,
            )  # fmt: skip
        except CancelledError as error:
            assert error.exit_code == 130
            whole = 0
            if "is complete as of checkpoint" in str(error):
                whole = int(str(error).partition("checkpoint ")[2].partition(",")[0])
        else:
            assert report.standby is not None
            whole = report.standby.nr_checkpoints
        assert source.guest.is_running
        assert source.guest.share == 1.0
        guest = arrived(manager, standby)
        assert (guest is not None) == (whole > 0)
        if guest is not None:
            seen |= 1 << whole
            assert not guest.is_running
            assert guest.fingerprint().as_digests() == source.pauses[whole - 1]
            guest.destroy()
        if whole == 3:
            break
    assert seen == 0b1110
    source.end()


def test_cancelled_while_the_guest_runs_to_a_checkpoint_it_does_not_wait_for_that(
    manager: xsave.PluginManager, tmp_path: Path
) -> None:
    source = boot(manager, "pvh", "workload=idle", clock="real")
    with pytest.raises(CancelledError):
        xsave.run(
            source.address, tmp_path / "guest.xsv", checkpoint=Checkpoints(3600.0),
            manager=manager, cancelled=lambda: len(source.pauses) > 0 and source.guest.is_running,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    assert source.guest.is_running
    source.end()


def test_it_goes_on_until_somebody_says_so(manager: xsave.PluginManager, tmp_path: Path) -> None:
    source = boot(manager, "pvh", "workload=random&dirty=20M/s", clock="real")
    report = xsave.run(
        source.address, tmp_path / "guest.xsv", manager=manager,
        checkpoint=Checkpoints(0.001, ended=lambda: len(source.pauses) == 4),
    )  # fmt: skip
    assert report.save is not None
    assert report.save.rounds is not None
    assert report.save.rounds.count == 4
    assert source.guest.is_running
    source.end()


def test_the_parts_of_each_pause_add_up_and_all_rounds_are_told(
    manager: xsave.PluginManager, tmp_path: Path
) -> None:
    source = boot(manager, "pv", "workload=random&dirty=40M/s", clock="real")
    report = xsave.run(
        source.address, tmp_path / "guest.xsv", checkpoint=Checkpoints(0.02, 4), manager=manager
    )
    source.end()
    assert report.save is not None
    rounds = report.save.rounds
    assert rounds is not None
    assert [one.number for one in rounds.shown] == [0, 1, 2, 3]
    for one in rounds.shown:
        parts = one.downtime
        assert parts.total_s == pytest.approx(
            parts.pause_s + parts.memory_s + parts.state_s + parts.finish_s
        )
        assert parts.memory_s > 0
        assert parts.state_s > 0
    assert all(one.ran_s >= 0.02 and one.nr_pages > 0 for one in rounds.shown[1:])
    assert rounds.sent_bytes == sum(one.sent_bytes for one in rounds.shown)
    assert rounds.pause_s == pytest.approx(sum(one.downtime.total_s for one in rounds.shown))
    assert rounds.longest_s == max(one.downtime.total_s for one in rounds.shown)
    assert report.save.downtime == rounds.shown[-1].downtime


@pytest.mark.parametrize("codec", ["zstd:1", "lz4"])
def test_an_image_with_checkpoints_verifies_and_converts(
    codec: str, manager: xsave.PluginManager
) -> None:
    source = boot(manager, "hvm", "workload=random&dirty=20M/s")
    data = record(source, "native", 2, codec=codec)
    source.end()
    assert xsave.verify(io.BytesIO(data), manager=manager).records[MARK["native"]].count == 2
    libxl, again = io.BytesIO(), io.BytesIO()
    xsave.run(io.BytesIO(data), libxl, to="libxl", manager=manager)
    xsave.run(io.BytesIO(libxl.getvalue()), again, to="libxl", manager=manager)
    assert again.getvalue() == libxl.getvalue()


@pytest.mark.peer
def test_xens_own_checker_accepts_a_simulated_stream_with_checkpoints(
    manager: xsave.PluginManager, tmp_path: Path, peer: Path
) -> None:
    """Bare libxc: inside of libxl the checker reads libxc up to END only."""
    for kind in ("pv", "pvh"):
        source = boot(manager, kind, "workload=random&dirty=20M/s")
        image = tmp_path / kind
        image.write_bytes(record(source, "libxc", 3))
        source.end()
        library = peer.parent.parent / "lib" / "python"
        found = subprocess.run(
            [str(peer), "-f", "libxc", "-i", str(image), "-v"], env={"PYTHONPATH": str(library)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert found.returncode == 0, found.stdout + found.stderr
        assert (found.stdout + found.stderr).count("Checkpoint") == 3
