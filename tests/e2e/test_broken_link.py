"""A link that breaks while memory goes out is taken up again: what is sent twice is at most what
was on its way, and nothing begins anew. Real processes, real sockets; what passes is counted by
the relay between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.prove.laboratory import Laboratory, Process
from xsave_plugins.sim_host.remote import Hosts

BATCH_BYTES = 4 << 20  # of memory; and as much of the stream may be on its way
SLACK_BYTES = 256 << 10  # heads of frames, acknowledgements, opening a connection


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    with Laboratory(tmp_path_factory.mktemp("laboratory")) as made:
        yield made


def report_of(process: Process) -> dict[str, Any]:
    assert process.wait() == 0, process.said
    lines = process.said.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("{"))
    found: dict[str, Any] = json.loads("\n".join(lines[start:]))
    return found


@pytest.mark.parametrize("transport", ["tcp", "tls"])
@pytest.mark.parametrize(
    ("name", "dirty", "cuts"),
    [
        ("never", "0", []),
        ("once", "0", [9 << 20]),
        ("thrice", "0", [5 << 20, (5 << 20) + 200_000, 11 << 20]),
        ("busy", "20M/s", [4 << 20, 10 << 20]),
    ],
)
def test_after_a_break_only_what_was_on_its_way_is_sent_again(
    laboratory: Laboratory, transport: str, name: str, dirty: str, cuts: list[int]
) -> None:
    guest, way = f"{transport}-{name}", laboratory.ways[transport]
    laboratory.boot(f"pvh?name={guest}&memory=32M&workload=random&dirty={dirty}&prove=yes")
    laboratory.receive(way)
    before, connections = way.relay.passed["there"], way.relay.nr_connections
    for cut in cuts:
        way.relay.when("there", before + cut, way.relay.cut)
    report = report_of(laboratory.migrate(way, guest, None, "--json", "--patience", "60"))
    link, save = report["link"], report["run"]["save"]
    assert way.relay.nr_connections - connections == 1 + len(cuts)
    assert link["nr_reconnections"] == len(cuts)
    assert link["resent_bytes"] <= len(cuts) * BATCH_BYTES
    assert bool(link["resent_bytes"]) == bool(cuts)
    passed = way.relay.passed["there"] - before
    assert passed <= (link["sent_bytes"] + len(cuts) * BATCH_BYTES) * 1.01 + SLACK_BYTES
    # Of memory, too: after the first pass, what became dirty; an idle guest only counts.
    passes = [*save["iterations"], save["final"]]
    for one, following in pairwise(passes):
        slack = 16 if dirty == "0" else BATCH_BYTES // 4096  # since the log was looked at
        assert following["nr_pages"] <= one["nr_dirty"] + save["nr_deferred"] + slack
    with Hosts(laboratory.one) as here, Hosts(laboratory.two) as there:
        assert here.proofs()["left"][guest] == there.proofs()["arrived"][guest]
        assert here.guest(guest) is None
