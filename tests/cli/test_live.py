"""``xsave run`` with domains as its ends."""

from __future__ import annotations

import signal
import subprocess
import sys
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
from xsave.cli.rates import PERIOD, RATE
from xsave.cli.run import take
from xsave.cli.settings import Settings
from xsave.progress import DowntimeReport, Progress, Round, RoundsReport, SaveReport

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Valid = Callable[[bytes | str], dict[str, Any]]

BUSY = "sim:{}?memory=16M&dirty=40M/s"
SETTLED_OPTIONS = {
    "--to": ["xl"], "--add": ["a=b"], "--then": ["resume"], "--base": ["a.xsv"],
    "--allow-loss": ["xen"],
    "--checkpoint": ["1s"], "--take-over": [],
}  # fmt: skip
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
                 "paused", "after 0  ", "deferred until", "downtime ", "its state"):  # fmt: skip
        assert part in text


def test_checkpoints_make_a_standby_that_waits(
    run_xsave: Run, tmp_path: Path, valid: Valid
) -> None:
    image = tmp_path / "rounds.xsv"
    done = run_xsave(
        "run", "sim:pv?memory=4M&dirty=20M/s", image, "--checkpoint", "10ms", "--checkpoints", "3",
        "--json",
    )  # fmt: skip
    rounds = valid(done.stdout)["save"]["rounds"]
    assert rounds["count"] == len(rounds["shown"]) == 3
    for one in rounds["shown"]:
        downtime = one["downtime"]
        assert downtime["total_s"] == pytest.approx(sum(downtime[part] for part in PARTS))
    assert [one["ran_s"] >= 0.01 for one in rounds["shown"]] == [False, True, True]
    there = run_xsave("run", image, "sim:?host=b", "--json")
    assert there.returncode == 0
    standby = {"name": "pv", "nr_checkpoints": 3, "broke": "", "running": False}
    assert valid(there.stdout)["standby"] == standby
    cut = tmp_path / "cut.xsv"
    cut.write_bytes(image.read_bytes()[:-6000])
    broken = run_xsave("run", cut, "sim:?host=b", "--json")
    assert broken.returncode == 7
    error = valid(broken.stdout)["error"]
    assert (error["class"], error["nr_checkpoints"]) == ("BrokenOffError", 2)
    taken = run_xsave("run", cut, "sim:?host=b", "--json", "--take-over")
    assert taken.returncode == 7
    assert valid(taken.stdout)["standby"]["running"] is True
    assert valid(taken.stdout)["standby"]["broke"].startswith("the image is cut")


def test_of_very_many_checkpoints_the_text_has_the_first_and_the_last() -> None:
    one = Iteration(0, 10, 10, 40960, 0.1, 5)
    save = SaveReport(True, "fixed", [one], [], one, downtime=DowntimeReport(0.1))
    save.rounds = RoundsReport()
    for number in range(1000):
        save.rounds.add(Round(number, 0.2, 3, 12288, DowntimeReport(0.01)))
    lines = save_as_text(save, 4096)
    assert any("1000 checkpoints, 11.7 MiB; paused 10000.0 ms in all" in line for line in lines)
    assert any("... 990 more" in line for line in lines)
    assert any(line.split()[:1] == ["999"] for line in lines)
    assert len(lines) < 30


@pytest.mark.parametrize("limit", [[], ["--limit", "20M"]])
def test_interrupted_a_run_with_checkpoints_leaves_nothing(
    tmp_path: Path, limit: list[str]
) -> None:
    """Once it is known to have come so far that it goes from checkpoint to checkpoint."""
    image = tmp_path / "rounds.xsv"
    command = [sys.executable, "-m", "xsave", "run", "sim:pvh?memory=4M&dirty=20M/s",
               str(image), "--checkpoint", "5ms", "--progress", *limit]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "checkpoint" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130
    assert rest.splitlines()[-1] == "xsave: interrupted"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("report", ["guest.xsv", "sub/../guest.xsv", "guest.save"])
def test_a_report_is_never_written_over_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    small_image: Path, report: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("guest.save").symlink_to(small_image)
    Path("sub").mkdir()
    assert main(["run", "guest.save", "guest.xsv", "--report", report]) == 2
    assert "cannot be both the report and an image" in capfd.readouterr().err
    assert not Path("guest.xsv").exists()


def test_a_report_that_cannot_be_written_is_found_out_before_a_guest_moves(
    tmp_path: Path, manager: xsave.PluginManager
) -> None:
    backend: Any = manager.backends.find("sim")
    backend.open("pvh?memory=4M&name=unreported")
    with pytest.raises(XsaveError, match="cannot write"):
        take(
            Settings(), "sim:pvh?name=unreported", "sim:?host=b&name=unreported",
            report_file=str(tmp_path / "no" / "a.html"), manager=manager, add=(), workers=None,
        )  # fmt: skip
    assert backend.host("a").guests["unreported"].is_running
    assert "unreported" not in backend.host("b").guests
    _end(manager, "pvh?name=unreported")


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


def test_a_live_run_tells_about_how_long_it_will_take(manager: xsave.PluginManager) -> None:
    told: list[Progress] = []
    asked: list[float | None] = []

    def tell(progress: Progress) -> None:
        told.append(progress)
        asked.append(progress.remaining_s)

    xsave.run(
        "sim:pvh?memory=16M&dirty=8M/s&name=foreseen", "sim:?host=b&name=foreseen",
        limit=10 << 20, policy="fixed:iterations=3,dirty=0", manager=manager, progress=tell,
    )  # fmt: skip
    _end(manager, "pvh?name=foreseen&host=b")
    foreseen = [one for one in asked if one is not None]
    assert told[0].remaining_s is None  # asked when it is over
    assert len(foreseen) > len(asked) / 2
    assert max(foreseen) > 0.5
    assert foreseen[-1] < max(foreseen) / 2


def test_progress_in_words() -> None:
    ahead = Progress(
        "run", 1 << 20, None, 256, 0.5, 2, False, 3.0 * (1 << 20), estimate=lambda: 7.2
    )
    assert describe(ahead).endswith("  1.0 MiB  2.0 MiB/s  about 0:08 left")
    round_ = Progress("run", 1 << 20, None, 256, 0.5, 2, nr_checkpoints=4)
    assert describe(round_) == "run  checkpoint 3  1.0 MiB  2.0 MiB/s  0:01"
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
        (["inspect", "sim:pw"], "no guest type 'pw'"),
        (["verify", "nix:pv"], "no domain backend is named 'nix'"),
        (["verify", "sim:pv", "--base", "a.xsv"], "a base is of an image, and sim:pv is a domain"),
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
        (["run", "sim:pv", "b.xsv", "--checkpoints", "3"], "--checkpoints needs --checkpoint"),
        (["run", "sim:pv", "b.xsv", "--checkpoint", "200"], "is no time with its unit"),
        (["run", "sim:pv", "b.xsv", "--checkpoint", "9999s"], "0 to 3600 s between checkpoints"),
        (["run", "a.xsv", "sim:pv", "--checkpoint", "1s"], "--checkpoint is about a domain"),
        (["run", "sim:pv", "sim:?host=b", "--take-over"], "to take over is for a domain that a"),
        (["run", "sim:pv", "b.xsv", "--take-over"], "to take over is for a domain that a"),
        *[(["run", said, *given], f"{said} needs SOURCE and DEST")
          for said, given in SETTLED_OPTIONS.items()],
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


def test_the_main_job_settles_what_its_tests_name() -> None:
    assert set(SETTLED_OPTIONS) == set(SETTLED.values())


@pytest.mark.parametrize(
    ("text", "period_s"), [("200ms", 0.2), ("1.5s", 1.5), ("0s", 0.0), (" 500us ", 0.0005)]
)
def test_a_period_has_a_unit(text: str, period_s: float) -> None:
    assert PERIOD.convert(text, None, None) == pytest.approx(period_s)


@pytest.mark.parametrize("text", ["", "5", "1m", "-1s", "nan", "1e3s"])
def test_no_period_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="is no time with its unit"):
        PERIOD.convert(text, None, None)


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
