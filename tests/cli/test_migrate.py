"""Migrations from the command line: two processes, their reports, and what is refused."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from jsonschema import Draft202012Validator

from .conftest import XSAVE

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Valid = Callable[[bytes | str], dict[str, Any]]
SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
GUEST = "sim:pv?memory=8M&name=web&dirty=4M/s&tmem=8"


class Receiving:
    """``xsave receive --once`` in a process of its own."""

    def __init__(self, folder: Path, *options: str, into: str = "sim:?host=b") -> None:
        self.socket = folder / "ways.sock"
        self._process = subprocess.Popen(
            [*XSAVE, "receive", f"unix:{self.socket}", "--into", into, "--once", "--state",
             str(folder / "there"), *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not self.socket.exists():
            assert self._process.poll() is None, self._process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def end(self) -> tuple[int, bytes, bytes]:
        said, told = self._process.communicate(timeout=120)
        return self._process.returncode, said, told


def test_both_ends_report_the_same_migration(run_xsave: Run, valid: Valid, tmp_path: Path) -> None:
    there = Receiving(tmp_path, "--json", "--report", str(tmp_path / "there.html"))
    here = run_xsave(
        "migrate", GUEST, f"unix:{there.socket}", "--state", tmp_path / "here", "--json",
        "--report", tmp_path / "here.html", "--codec", "zstd:1", "--connections", "2",
    )  # fmt: skip
    assert here.returncode == 0, here.stderr
    code, said, told = there.end()
    assert code == 0, told
    left, arrived = valid(here.stdout), valid(said)
    assert left["schema"] == arrived["schema"] == "xsave/migration/1"
    assert left["id"] == arrived["id"]
    assert (left["role"], left["outcome"]) == ("source", "gone")
    assert (arrived["role"], arrived["outcome"]) == ("destination", "closed")
    for report in (left, arrived):
        valid(json.dumps({"schema": "xsave/run/1", **report["run"]}))
    assert left["run"]["nr_pages"] == arrived["run"]["nr_pages"]
    assert left["link"]["nr_channels"] == 2
    for page in ("here.html", "there.html"):
        assert left["id"] in (tmp_path / page).read_text()
    found = valid(run_xsave("resolve", "--all", "--json", "--state", tmp_path / "here").stdout)
    assert [entry["state"] for entry in found["migrations"]] == ["gone"]


def test_text_reports_say_where_it_runs(run_xsave: Run, tmp_path: Path) -> None:
    there = Receiving(tmp_path)
    here = run_xsave("migrate", GUEST, f"unix:{there.socket}", "--state", tmp_path / "here")
    code, _, told = there.end()
    assert (here.returncode, code) == (0, 0)
    assert b"it runs there" in here.stderr
    assert b"handing it over" in here.stderr
    assert b"it runs here" in told
    assert b"receiving on unix:" in told


def test_over_ssh_the_far_end_is_started_and_ends_with_its_link(
    run_xsave: Run, tmp_path: Path
) -> None:
    ssh = tmp_path / "ssh"  # runs what it is to run there, here
    ssh.write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    command = quote(f"{shlex.join(XSAVE)} receive pipe: 2> {tmp_path}/told --json")
    done = run_xsave(
        "migrate", GUEST, f"ssh:there?command={command}", "--state", tmp_path / "here",
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "XSAVE_INTO": "sim:?host=b",
             "XSAVE_STATE": str(tmp_path / "there")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"it runs there" in done.stderr
    deadline = time.monotonic() + 60
    while "migration/1" not in (tmp_path / "told").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_refusal_is_an_error_with_all_its_reasons(
    run_xsave: Run, valid: Valid, tmp_path: Path
) -> None:
    there = Receiving(tmp_path, into="sim:?host=b&host_memory=4M&host_tmem=no")
    here = run_xsave(
        "migrate", GUEST, f"unix:{there.socket}", "--state", tmp_path / "here", "--json"
    )
    assert here.returncode == 8
    error = valid(here.stdout)["error"]
    assert error["class"] == "RefusedError"
    assert [refusal["name"] for refusal in error["refusals"]] == ["memory", "tmem"]
    assert there.end()[0] != 0


def test_what_stays_behind_is_exit_code_6(run_xsave: Run, tmp_path: Path) -> None:
    there = Receiving(tmp_path, into="sim:?host=b&host_tmem=off")
    here = run_xsave(
        "migrate", f"{GUEST}&tmem_pools=ephemeral", f"unix:{there.socket}", "--state",
        tmp_path / "here", "-q",
    )  # fmt: skip
    there.end()
    assert here.returncode == 6
    assert b"stayed behind" in here.stderr


def test_preflight_and_describe_host_have_schemas(
    run_xsave: Run, valid: Valid, tmp_path: Path
) -> None:
    described = run_xsave("describe-host", "sim:?host=b&host_tmem=no", "-o", tmp_path / "b.json")
    assert described.returncode == 0
    schema = json.loads((SCHEMAS / "host.json").read_text())
    Draft202012Validator(schema).validate(json.loads((tmp_path / "b.json").read_text()))
    done = run_xsave("preflight", GUEST, tmp_path / "b.json", "--json")
    assert done.returncode == 8
    found = valid(done.stdout)
    assert [refusal["name"] for refusal in found["refusals"]] == ["tmem"]
    assert run_xsave("preflight", GUEST, "sim:?host=c").returncode == 0


def test_a_guest_of_a_process_that_has_ended_is_left_to_a_human(
    run_xsave: Run, valid: Valid, tmp_path: Path, left_open: str
) -> None:
    state = ("--state", tmp_path / "here")
    assert run_xsave("resolve", *state).returncode == 9
    found = valid(run_xsave("resolve", "--list", "--json", *state).stdout)
    assert [entry["open"] for entry in found["migrations"]] == [True]
    assert run_xsave("resolve", left_open[:8], "--there", *state).returncode == 0
    assert run_xsave("resolve", *state).stdout == b"nothing is open\n"


@pytest.fixture
def left_open(tmp_path: Path) -> str:
    from xsave.io.journal import Entry, Journal

    with Journal(tmp_path / "here").hold("7" * 32, "source") as held:
        held.write(Entry(id="7" * 32, role="source", state="given", backend="sim",
                         address=f"unix:{tmp_path}/nobody"))  # fmt: skip
    return "7" * 32


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["migrate", "sim:pv", "pigeon:home"], "no transport is named 'pigeon'"),
        (["migrate", "guest.xsv", "unix:x"], "is no domain"),
        (["receive", "unix:x", "--into", "guest.xsv"], "is no address of a backend"),
        (["receive", "unix:x", "--into", "sim:", "--report", "a"], "only with --once"),
        (["resolve", "--here"], "name its ID"),
        (["resolve", "77", "--state", "nothing"], "no migration is named '77'"),
        (["describe-host", "guest.xsv"], "is no address of a backend"),
        (["preflight", "sim:pv?memory=4M", "pigeon:home"], "transport or domain backend"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_begun(
    run_xsave: Run, command: list[str], error: str
) -> None:
    done = run_xsave(*command)
    assert done.returncode == 2
    assert error in done.stderr.decode()
