"""Rules across tmem records: pools before pages, no page that may be stale."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from xsave import FieldError, ImageInfo, Record, RecordType, StreamError, build_manager
from xsave_plugins import tmem
from xsave_plugins.tmem.check import TmemCheck
from xsave_plugins.tmem.client import TmemClient
from xsave_plugins.tmem.invalidate import TmemInvalidate
from xsave_plugins.tmem.pages import TmemPages
from xsave_plugins.tmem.pool import TmemPool
from xsave_plugins.tmem.settled import TmemSettled

RECORD = Record(RecordType("xen.tmem.any"), b"")
CLIENT = TmemClient(1, 16, 0, 0, 0)
PERSISTENT = TmemPool(2, 1, 3, (0, 0))
EPHEMERAL = TmemPool(3, 0, 3, (0, 0))
SHARED = TmemPool(4, 2, 0, (1, 1))


def pages(pool_id: int, nr_pages: int, words: int = 3) -> TmemPages:
    oids = np.zeros((nr_pages, words), np.uint64)
    indexes = np.arange(nr_pages, dtype=np.uint32)
    return TmemPages(pool_id, oids, indexes, np.zeros((nr_pages, 4096), np.uint8))


def void(pool_id: int, words: int = 3) -> TmemInvalidate:
    return TmemInvalidate(pool_id, np.zeros((1, words), np.uint64), None)


def settled(pool_id: int, nr_pages: int, nr_valid: int) -> TmemSettled:
    return TmemSettled(pool_id, 0, nr_pages, nr_valid)


def see(*states: object) -> None:
    check = TmemCheck()
    for state in states:
        check.see_record(RECORD, state)
    check.finish()


@pytest.mark.parametrize(
    "states",
    [
        (),
        (CLIENT,),
        (CLIENT, PERSISTENT, EPHEMERAL, SHARED),
        (CLIENT, PERSISTENT, pages(2, 2), pages(2, 1), void(2), void(2)),
        (CLIENT, EPHEMERAL, PERSISTENT, pages(2, 2)),  # a lost page: releases lose some
        (TmemClient(0, 16, 0, 0, 0), PERSISTENT, pages(2, 1, words=1), void(2, words=1)),
        (CLIENT, EPHEMERAL, void(3)),  # nothing of it came
        (CLIENT, EPHEMERAL, pages(3, 2), void(3), settled(3, 2, 0)),
        (CLIENT, EPHEMERAL, pages(3, 2), settled(3, 2, 1), pages(3, 1), settled(3, 3, 3)),
        (None, {"another": "record"}),
    ],
)
def test_good_streams_pass(states: tuple[object, ...]) -> None:
    see(*states)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ((CLIENT, CLIENT), "client: expected one in a stream"),
        ((PERSISTENT,), "pool: expected xen.tmem.client before it"),
        ((CLIENT, PERSISTENT, PERSISTENT), "pool_id: expected a new one, got 2 again"),
        ((TmemClient(1, 2, 0, 0, 0), PERSISTENT), "below the client's 2 pools, got 2"),
        ((CLIENT, pages(2, 1)), r"a pool announced before \(none\), got 2"),
        ((CLIENT, PERSISTENT, EPHEMERAL, pages(5, 1)), r"announced before \(2, 3\), got 5"),
        ((CLIENT, PERSISTENT, void(0)), "announced before"),
        ((CLIENT, SHARED, void(4)), "expected a pool that is not shared, got 4, shared"),
        ((CLIENT, SHARED, pages(4, 1)), "expected a pool that is not shared, got 4, shared"),
        ((CLIENT, EPHEMERAL, pages(3, 4)), "at most 3 in pool 3, got 4 so far"),
        ((CLIENT, EPHEMERAL, pages(3, 2), settled(3, 1, 1)), "expected 2, as came of pool 3"),
        ((CLIENT, PERSISTENT, settled(2, 0, 0)), "expected an ephemeral pool, got 2, persistent"),
        ((CLIENT, PERSISTENT, settled(3, 0, 0)), r"a pool announced before \(2\), got 3"),
        ((CLIENT, PERSISTENT, pages(2, 1, words=1)), "oid_words: expected 3 with the client's ABI"),
        ((CLIENT, PERSISTENT, void(2, words=1)), "oid_words: expected 3"),
        ((CLIENT, PERSISTENT, pages(2, 2), pages(2, 2)), "at most 3 in pool 2, got 4 so far"),
    ],
)
def test_what_contradicts_earlier_records_is_refused(
    states: tuple[object, ...], message: str
) -> None:
    with pytest.raises(FieldError, match=message):
        see(*states)


@pytest.mark.parametrize("more", [(), (settled(3, 1, 1), pages(3, 1))])
def test_ephemeral_pages_that_nobody_looked_at_in_the_pause_are_refused(
    more: tuple[object, ...],
) -> None:
    with pytest.raises(StreamError, match=r"ephemeral pool 3 came, .* could read stale data"):
        see(CLIENT, PERSISTENT, EPHEMERAL, pages(3, 1), *more)


def test_the_plugin_offers_a_new_check_for_each_stream() -> None:
    manager = build_manager([tmem])
    info = ImageInfo("any")
    (first,) = manager.make_checks(info, frozenset({"tmem"}))
    (second,) = manager.make_checks(info, frozenset({"tmem"}))
    assert isinstance(first, TmemCheck)
    assert first is not second


def test_loading_the_plugin_does_not_import_numpy() -> None:
    code = (
        "import sys, xsave_plugins.tmem, xsave_plugins.qemu_device; print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"False"
