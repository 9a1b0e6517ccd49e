"""``xsave plan``, and whether what it says is what then happens."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import xsave
from xsave.estimate import Trace, estimate, read_trace, trace_as_json
from xsave.pipeline.measure import ROUNDS, count_contents, looks, measure_trace

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Valid = Callable[[bytes | str], dict[str, Any]]

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
TRACE = Trace(262144, ((0.1, 2000), (1.0, 9000), (10.0, 15000), (30.0, 17000)), 4096, "guest7")


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    path = tmp_path / "guest7.trace"
    path.write_text(json.dumps(trace_as_json(TRACE)))
    return path


def test_every_policy_and_bandwidth_gets_a_row(run_xsave: Run, trace_file: Path) -> None:
    done = run_xsave("plan", trace_file, "--bandwidth", "100M,1G")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("simulated: guest7, 1.0 GiB of memory")
    rows = {tuple(line.split()[:3]) for line in lines[2:]}
    for policy in ("downtime", "fixed", "slowing"):
        assert (policy, "100.0", "MiB/s") in rows
        assert (policy, "1.0", "GiB/s") in rows


def test_json_has_every_iteration_and_says_that_it_is_simulated(
    run_xsave: Run, trace_file: Path, valid: Valid
) -> None:
    done = run_xsave(
        "plan", trace_file, "--json", "--policy", "fixed:iterations=3",
        "--policy", "downtime:target=100ms,give_up=abort", "--bandwidth", "20M", "--pause", "0.01",
    )  # fmt: skip
    found = valid(done.stdout)
    assert found["simulated"] is True
    assert read_trace(json.dumps(found["trace"])) == TRACE
    fixed, downtime = found["plans"]
    assert (fixed["policy"], fixed["bytes_per_s"]) == ("fixed:iterations=3", 20 << 20)
    assert len(fixed["iterations"]) == len(fixed["rulings"]) == 3
    assert fixed["downtime_s"] == pytest.approx(fixed["final"]["duration_s"] + 0.01)
    assert downtime["aborted"] is True
    assert downtime["downtime_s"] is None


def test_verbose_gives_the_reasons(run_xsave: Run, trace_file: Path) -> None:
    done = run_xsave("plan", trace_file, "-v", "--policy", "fixed", "--bandwidth", "100M")
    assert b"fixed at 100.0 MiB/s: " in done.stdout


def test_a_domain_is_watched_and_what_was_seen_can_be_kept(
    run_xsave: Run, tmp_path: Path, valid: Valid
) -> None:
    kept = tmp_path / "kept.trace"
    done = run_xsave(
        "plan", "sim:pvh?memory=16M&dirty=40M/s", "--seconds", "0.4", "--save-trace", kept, "--json"
    )
    assert done.returncode == 0, done.stderr
    found = valid(done.stdout)
    assert json.loads(kept.read_text()) == found["trace"]
    schema = json.loads((SCHEMAS / "trace.json").read_text())
    Draft202012Validator(schema).validate(found["trace"])
    again = run_xsave("plan", kept, "--json")
    assert valid(again.stdout)["plans"] == found["plans"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere.trace"], 1, "cannot read nowhere.trace"),
        (["guest7.trace", "--save-trace", "b"], 2, "--save-trace is for domains"),
        (["guest7.trace", "--bandwidth", "100M,quick"], 2, "'quick' is no rate"),
        (["guest7.trace", "--policy", "hasty"], 2, "no pre-copy policy is named 'hasty'"),
        (["nix:pv"], 2, "no domain backend is named 'nix'"),
        (["sim:pv", "--seconds", "0"], 2, "seconds"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_words(
    run_xsave: Run, trace_file: Path, arguments: list[str], code: int, words: str
) -> None:
    done = run_xsave("plan", *arguments, cwd=trace_file.parent)
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert done.returncode == code


def test_a_trace_without_end_is_refused_before_it_fills_memory(run_xsave: Run) -> None:
    done = run_xsave("plan", "/dev/zero")
    assert done.returncode == 3
    assert b"trace: expected at most 67108864 bytes, got more" in done.stderr


def test_a_file_that_is_no_trace_is_damaged(run_xsave: Run, tmp_path: Path) -> None:
    (tmp_path / "a.trace").write_text("{}")
    done = run_xsave("plan", tmp_path / "a.trace")
    assert done.returncode != 0
    assert b"a member nr_pages" in done.stderr


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0, 7.0, 30.0, 3600.0])
def test_looks_get_ever_later_and_end_at_the_end(seconds: float) -> None:
    found = list(looks(seconds))
    assert found[-1] == seconds
    assert all(later > 1.1 * sooner for sooner, later in itertools.pairwise(found))


class Clocked:
    """A simulated guest for which time passes only when it is waited for."""

    def __init__(self, manager: xsave.PluginManager, address: str) -> None:
        self.domain: Any = manager.backends.find("sim").open(address)
        self.now_s = 0.0

    def clock(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        self.domain.guest.step(seconds)
        self.now_s += seconds


def test_a_watched_guest_runs_on_and_its_log_is_off_again(manager: xsave.PluginManager) -> None:
    guest = Clocked(manager, "pv?memory=16M&dirty=8M/s&clock=manual&name=watched")
    trace = measure_trace(guest.domain, 1.0, guest.clock, guest.wait, about="watched")
    assert guest.now_s == pytest.approx(1.0)
    assert len(trace.samples) == ROUNDS * len(list(looks(0.5)))
    assert trace.nr_pages == count_contents(guest.domain) == 4096
    assert guest.domain.guest.is_running
    with pytest.raises(xsave.XsaveError, match="was not started"):
        guest.domain.read_dirty_log(clean=False)
    guest.domain.destroy()


READ_S = 0.001  # with clock=reads, what a read of a batch takes the guest
BATCH_BYTES = 1024 * 4096


@pytest.mark.parametrize("workload", ["random", "sequential"])
def test_an_estimate_foretells_how_many_pages_the_pipeline_sends(
    manager: xsave.PluginManager, workload: str
) -> None:
    """In the guest's own time, so that no load of this machine matters: it runs a millisecond
    at each batch, which is a bandwidth. Pages, within a factor of 1.5 and a batch."""
    about = f"pv?memory=128M&workload={workload}&dirty=1G/s"
    watched = Clocked(manager, f"{about}&clock=manual&name=estimated")
    trace = measure_trace(watched.domain, 0.2, watched.clock, watched.wait)
    watched.domain.destroy()
    policy = "fixed:iterations=3,dirty=0"
    foretold = estimate(
        trace.curve(), trace.nr_pages, trace.page_size, BATCH_BYTES / READ_S,
        manager.choose_policy(policy),
    )  # fmt: skip
    report = xsave.run(
        f"sim:{about}&clock=reads&name=measured", "sim:?host=b&clock=manual&name=measured",
        manager=manager, policy=policy,
    )  # fmt: skip
    arrived = manager.backends.find("sim").open("pv?host=b&name=measured")
    arrived.destroy()
    assert report.save is not None
    assert report.save.final is not None
    assert foretold.final is not None
    assert len(foretold.iterations) == len(report.save.iterations)
    really = [*report.save.iterations, report.save.final]
    for said, done in zip([*foretold.iterations, foretold.final], really, strict=True):
        assert said.nr_pages <= 1.5 * done.nr_pages + 1024
        assert done.nr_pages <= 1.5 * said.nr_pages + 1024
    assert sum(one.nr_pages for one in really[1:]) > 2048  # it was worth estimating
