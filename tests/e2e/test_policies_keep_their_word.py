"""What a policy promises is what the pipeline then does, on a guest with hot pages and at a
bandwidth that is known: time passes only as memory goes out."""

from __future__ import annotations

from typing import Any

import pytest

import xsave
from tests.e2e.checkpointed import boot
from xsave import Decision
from xsave.pipeline.save import DomainReader

BYTES_PER_S = 64 << 20
FIXED_S = 0.005
TARGETS_MS = (20, 50, 150)


def save(manager: xsave.PluginManager, dirty: str, policy: str) -> Any:
    """The report of a save into nothing."""
    watched = boot(manager, "pvh", f"workload=random&dirty={dirty}")
    domain = manager.backends.find("sim").open(f"pvh?name={watched.name}")
    read, now = domain.read_pages, 0.0

    def read_at_that_rate(pfns: Any, out: Any) -> Any:
        nonlocal now
        took_s = len(pfns) * 4096 / BYTES_PER_S
        now += took_s
        watched.guest.step(took_s)  # nothing happens to one that is paused
        return read(pfns, out)

    domain.read_pages = read_at_that_rate  # type: ignore[method-assign]
    reader = DomainReader(
        domain, manager, manager.handler_table(), manager.choose_policy(policy), lambda: 0,
        lambda: now,
    )  # fmt: skip
    try:
        for _event in reader:
            pass
    finally:
        reader.release("resume")
        watched.end()
    return reader.report


@pytest.mark.parametrize("target_ms", TARGETS_MS)
def test_with_hot_pages_the_pause_is_within_the_target_where_it_converges(
    target_ms: int, manager: xsave.PluginManager
) -> None:
    report = save(manager, "8M/s", f"downtime:target={target_ms}ms,fixed=5ms")
    assert report.rulings[-1].decision is Decision.STOP_AND_COPY
    assert "is within the target" in report.rulings[-1].reason
    assert report.downtime.total_s <= target_ms / 1e3 - FIXED_S  # made up: only memory takes time
    assert report.downtime.memory_s == report.downtime.total_s > 0
    assert all(ruling.reason for ruling in report.rulings)


def test_one_that_does_not_converge_is_told_of_and_can_be_left_alone(
    manager: xsave.PluginManager,
) -> None:
    policy = "downtime:target=6ms,fixed=5ms,give_up="
    report = save(manager, "2G/s", policy + "stop")
    assert "does not converge" in report.rulings[-1].reason
    assert report.downtime.total_s > 0.006
    with pytest.raises(xsave.XsaveError, match="pre-copy was given up, the guest runs on"):
        save(manager, "2G/s", policy + "abort")
