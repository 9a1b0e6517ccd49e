"""A guest goes from one end to another over a link, or stays; and is never lost or doubled."""

from __future__ import annotations

from typing import Any

import pytest

import xsave
from xsave import TryAgainError, UndecidedError, XsaveError
from xsave.pipeline.migrate import migrate
from xsave_plugins.sim_host.abilities import Abilities
from xsave_plugins.sim_host.domain import SimDomain

from .ends import GUEST, Ends, make_ends

ends = make_ends


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_a_guest_arrives_as_it_left_and_runs_in_one_place(ends: Ends, kind: str) -> None:
    report = ends.migrate(GUEST.replace("sim:pv", f"sim:{kind}"))
    assert (ends.guests("a"), ends.guests("b")) == ({}, {"web": True})
    assert ends.sim.host("a").left["web"] == ends.sim.host("b").arrived["web"]
    assert report.outcome == "gone"
    [(there, error)] = ends.told
    assert error is None
    assert there.outcome == "closed"
    assert there.id == report.id
    assert [entry.state for entry in ends.here.history(report.id, "source")] == [
        "sending", "given", "gone",
    ]  # fmt: skip
    assert [entry.state for entry in ends.there.history(report.id, "destination")] == [
        "receiving", "ready", "owned", "running", "closed",
    ]  # fmt: skip


@pytest.mark.parametrize("started", [True, False])
def test_a_start_of_which_nobody_knows_is_never_taken_for_none(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    """Its host does not answer; the source asks, and finds out when it does again."""
    resume = SimDomain.resume

    def resume_and_lose_the_answer(domain: SimDomain) -> None:
        if started:
            resume(domain)
        raise TryAgainError("the host does not answer")

    monkeypatch.setattr(SimDomain, "resume", resume_and_lose_the_answer)
    with pytest.raises(UndecidedError, match="stays paused here"):
        ends.migrate()
    assert (ends.guests("a"), ends.guests("b")) == ({"web": False}, {"web": started})
    [(report, _)] = ends.told
    assert report.outcome == "owned"
    assert [entry.state for entry in ends.there.history(report.id, "destination")][-1] == "owned"


def test_the_parts_of_the_downtime_add_up_and_handing_over_is_one(ends: Ends) -> None:
    report = ends.migrate()
    assert report.run is not None
    assert report.run.save is not None
    downtime = report.run.save.downtime
    assert downtime.total_s == pytest.approx(
        downtime.pause_s + downtime.memory_s + downtime.beside_s + downtime.state_s
        + downtime.finish_s + downtime.commit_s
    )  # fmt: skip
    assert 0 < report.times["journal_s"] < downtime.commit_s
    assert report.times["there_journal_s"] > 0


@pytest.mark.parametrize("codec", ["zstd:1", "lz4"])
def test_options_of_run_carry_over(ends: Ends, codec: str) -> None:
    report = ends.migrate(codec=codec, policy="fixed:iterations=1,dirty=0", checksum="sha256")
    assert report.run is not None
    assert report.run.save is not None
    assert len(report.run.save.iterations) == 1
    assert ends.guests("b") == {"web": True}


def test_without_live_it_is_paused_first(ends: Ends) -> None:
    report = ends.migrate(live=False)
    assert report.run is not None
    assert report.run.save is not None
    assert not report.run.save.iterations
    assert ends.guests("b") == {"web": True}


def test_what_fails_there_is_told_here_in_one_sentence_and_the_guest_stays(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Abilities, "memory_free_bytes", lambda _self: 1 << 40)  # it had so much
    with pytest.raises(XsaveError, match="host b has not enough memory") as caught:
        ends.migrate(receiver=ends.receiver("sim:?host=b&host_memory=4M"))
    assert caught.value.exit_code == xsave.OtherEndError(where="", reason="").code
    assert (ends.guests("a"), ends.guests("b")) == ({"web": True}, {})
    [entry] = ends.here.entries()
    assert entry.state == "kept"
    [entry] = ends.there.entries()
    assert entry.state == "cleared"


def test_a_guest_that_the_destination_cannot_take_is_not_touched(ends: Ends) -> None:
    with pytest.raises(xsave.RefusedError, match="which was not touched: memory: ") as caught:
        ends.migrate(receiver=ends.receiver("sim:?host=b&host_memory=4M"))
    assert [refusal.name for refusal in caught.value.refusals] == ["memory"]
    assert (ends.guests("a"), ends.guests("b")) == ({"web": True}, {})
    assert ends.here.entries() == ends.there.entries() == []


def test_a_migration_that_is_cancelled_leaves_the_guest_here_and_nothing_there(
    ends: Ends,
) -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 5

    with pytest.raises(xsave.CancelledError):
        ends.migrate(cancelled=cancelled)
    assert (ends.guests("a"), ends.guests("b")) == ({"web": True}, {})
    assert [entry.state for entry in ends.there.entries()] == ["cleared"]
    [(_, error)] = ends.told
    assert "cancelled" in str(error)


def test_a_guest_goes_there_and_back_again(ends: Ends) -> None:
    ends.migrate()
    back = ends.receiver("sim:?host=a&prove=yes")
    report = ends.migrate("sim:?name=web&host=b", back)
    assert report.outcome == "gone"
    assert (ends.guests("a"), ends.guests("b")) == ({"web": True}, {})


def test_only_a_guest_can_be_migrated(ends: Ends) -> None:
    def never() -> Any:
        raise AssertionError

    with pytest.raises(xsave.UsageError, match="is no domain"):
        migrate("guest.xsv", never, manager=ends.manager, journal=ends.here)
