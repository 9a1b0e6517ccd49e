"""``xsave run`` with domains as its ends."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import xsave
from xsave import Decision, Domain, Iteration, Ruling, XsaveError
from xsave.cli import main
from xsave.cli.live_report import save_as_text
from xsave.cli.main_job import SETTLED
from xsave.cli.progress_bar import describe
from xsave.cli.rates import RATE
from xsave.progress import DowntimeReport, Progress, SaveReport

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Valid = Callable[[bytes | str], dict[str, Any]]

BUSY = "sim:{}?memory=16M&dirty=40M/s"
PARTS = ("pause_s", "memory_s", "beside_s", "state_s", "finish_s", "proof_s")


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_a_running_guest_goes_into_an_image_and_becomes_one_again(
    run_xsave: Run, tmp_path: Path, valid: Valid, kind: str
) -> None:
    image = tmp_path / "guest.xsv"
    there = run_xsave("run", BUSY.format(kind), image, "--json")
    assert there.returncode == 0, there.stderr
    report = valid(there.stdout)
    assert report["source"]["format"] == "domain"
    assert report["save"]["live"] is True
    back = run_xsave("run", image, f"sim:{kind}?host=b", "--json")
    assert back.returncode == 0, back.stderr
    arrived = valid(back.stdout)
    assert arrived["save"] is None
    assert arrived["dest"]["format"] == "sim"
    assert arrived["nr_pages"] == report["nr_pages"]


def test_the_report_tells_iterations_rulings_and_a_downtime_that_adds_up(
    run_xsave: Run, valid: Valid
) -> None:
    done = run_xsave(
        "run", BUSY.format("pvh"), "sim:?host=b", "--json", "--policy", "fixed:iterations=2,dirty=0"
    )
    save = valid(done.stdout)["save"]
    assert save["policy"] == "fixed"
    assert [one["number"] for one in save["iterations"]] == [0, 1]
    assert [ruling["decision"] for ruling in save["rulings"]] == ["continue", "stop-and-copy"]
    assert all(ruling["reason"] for ruling in save["rulings"])
    assert save["iterations"][0]["nr_pages"] >= 4096
    assert save["iterations"][1]["nr_sent"] >= save["iterations"][0]["nr_dirty"]
    assert save["final"]["number"] == 2
    downtime = save["downtime"]
    assert downtime["total_s"] == pytest.approx(sum(downtime[part] for part in PARTS))
    assert downtime["total_s"] >= save["final"]["duration_s"]
    assert downtime["proof_s"] == 0


def test_the_report_in_text_has_the_same(run_xsave: Run) -> None:
    done = run_xsave("run", BUSY.format("pv"), "sim:?host=b", "--then", "pause")
    text = done.stderr.decode()
    for part in ("domain pv, an x86_pv guest, Xen 4.17 -> sim", "live, policy fixed", "ITERATION",
                 "paused", "after 0  ", " deferred until", "downtime ", "its state"):  # fmt: skip
        assert part in text


def test_what_is_not_live_is_sent_in_one_pass(run_xsave: Run, tmp_path: Path, valid: Valid) -> None:
    done = run_xsave("run", BUSY.format("pv"), tmp_path / "a.xsv", "--no-live", "--json")
    save = valid(done.stdout)["save"]
    assert (save["live"], save["policy"], save["iterations"]) == (False, None, [])
    assert save["final"]["nr_pages"] == 4096


@pytest.mark.parametrize("dest", ["sim:?host=b", "a.xsv"])
def test_a_limit_holds_for_both_kinds_of_destination(
    run_xsave: Run, tmp_path: Path, valid: Valid, dest: str
) -> None:
    where = dest if dest.startswith("sim") else tmp_path / dest
    done = run_xsave("run", "sim:pvh?memory=16M", where, "--limit", "20M", "--no-live", "--json")
    report = valid(done.stdout)
    assert report["elapsed_s"] >= 0.9 * report["dest"]["size_bytes"] / (20 << 20)


def test_progress_tells_the_iteration_and_the_rates(run_xsave: Run) -> None:
    done = run_xsave(
        "run", "sim:pvh?memory=16M&dirty=8M/s", "sim:?host=b", "--progress", "-q",
        "--limit", "10M", "--policy", "fixed:iterations=3,dirty=0",
    )  # fmt: skip
    lines = done.stderr.decode().splitlines()
    assert any("iteration 0" in line and "/s" in line for line in lines), lines


def test_progress_in_words() -> None:
    told = Progress("run", 1 << 20, None, 256, 0.5, 2, False, 3.0 * (1 << 20))
    assert describe(told) == "run  iteration 2, dirtied at 3.0 MiB/s  1.0 MiB  2.0 MiB/s  0:01"
    assert "  paused  " in describe(Progress("run", 1, None, 1, 1.0, 3, paused=True))


def test_a_guest_that_cannot_be_slowed_is_told_of() -> None:
    one = Iteration(0, 10, 10, 40960, 0.1, 5)
    ruling = Ruling(Decision.STOP_AND_COPY, "it is enough")
    save = SaveReport(True, "slowing", [one], [ruling], one, 3, False, DowntimeReport(0.1))
    text = "\n".join(save_as_text(save, 4096))
    assert "cannot be here" in text
    assert "3 pages deferred" in text
    assert "after 0  stop-and-copy: it is enough" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convert", "sim:pv", "a.xsv"], "sim:pv is a domain of backend sim; here only images"),
        (["inspect", "sim:pv"], "is a domain of backend sim"),
        (["verify", "sim:pv"], "is a domain of backend sim"),
        (["run", "a.xsv", "b.xsv", "--policy", "fixed"], "--policy is about a domain"),
        (["run", "a.xsv", "b.xsv", "--no-live"], "--no-live is about a domain"),
        (["run", "a.xsv", "sim:pv", "--then", "pause"], "--then is about a domain"),
        (["run", "sim:pv", "b.xsv", "--no-live", "--policy", "fixed"], "not with --no-live"),
        (["run", "sim:pv", "b.xsv", "--policy", "fixed:no=1"], "no"),
        (["run", "sim:pv", "b.xsv", "--policy", "hasty"], "no pre-copy policy is named 'hasty'"),
        (["run", "sim:pv", "b.xsv", "--limit", "fast"], "is no rate"),
        (["run", "sim:pw", "b.xsv"], "no guest type 'pw'"),
        (["run", "nix:pv", "b.xsv"], "no domain backend is named 'nix'"),
        (["run", "a.xsv", "nix:pv"], "no domain backend is named 'nix'"),
        (["run", "sim:pv"], "DEST is missing"),
        *[(["run", said, "a=b" if said == "--add" else "resume" if said == "--then" else "xl"],
           f"{said} needs SOURCE and DEST") for said in SETTLED.values()],
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    arguments: list[str], words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert words in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "rate"),
    [("40M", 40 << 20), ("1.5G", 3 << 29), ("512K", 1 << 19), ("7", 7), ("40MiB/s", 40 << 20)],
)
def test_a_rate_is_bytes_a_second(text: str, rate: int) -> None:
    assert RATE.convert(text, None, None) == rate


@pytest.mark.parametrize("text", ["0", "", "-1", "1T", "M", "1e9", "nan"])
def test_no_rate_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="is no rate"):
        RATE.convert(text, None, None)


def test_both_ends_can_be_compared_before_either_runs_on(manager: xsave.PluginManager) -> None:
    seen: list[tuple[Any, Any]] = []

    def look(source: Domain | None, dest: Domain | None) -> None:
        assert source is not None
        assert dest is not None
        seen.append((source.fingerprint(), dest.fingerprint()))

    report = xsave.run(
        BUSY.format("pv") + "&name=compared", "sim:?host=b&name=compared-b", manager=manager,
        at_rest=look,
    )  # fmt: skip
    ((left, arrived),) = seen
    assert left is not None
    assert left == arrived
    assert report.save is not None
    assert report.save.downtime.proof_s > 0
    _end(manager, "pv?name=compared-b&host=b")


def test_who_looks_may_call_it_off_and_the_source_runs_on(manager: xsave.PluginManager) -> None:
    def refuse(_source: Domain | None, _dest: Domain | None) -> None:
        raise XsaveError("not like this")

    where = "pv?memory=16M&dirty=40M/s&name=kept"
    with pytest.raises(XsaveError, match="not like this"):
        xsave.run(f"sim:{where}", "sim:?host=b&name=kept-b", manager=manager, at_rest=refuse)
    backend: Any = manager.backends.find("sim")
    assert backend.host("a").guests["kept"].is_running
    assert "kept-b" not in backend.host("b").guests
    _end(manager, where)


def _end(manager: xsave.PluginManager, address: str) -> None:
    domain = manager.backends.find("sim").open(address)
    domain.destroy()
    domain.close()
