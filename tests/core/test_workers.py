"""Threads whose results come in the order of submission."""

from __future__ import annotations

import os
import threading
import time

import pytest

from xsave import Workers


def test_results_come_in_the_order_of_submission() -> None:
    def late_if_early(number: int) -> int:
        time.sleep((10 - number) / 2000)
        return number

    with Workers(4) as workers:
        waiting = [workers.submit(late_if_early, number) for number in range(10)]
        assert [wait() for wait in waiting] == list(range(10))


@pytest.mark.parametrize("nr_threads", [1, 3])
def test_an_exception_is_raised_where_the_result_is_asked_for(nr_threads: int) -> None:
    def fail() -> None:
        raise ValueError("as told")

    with Workers(nr_threads) as workers:
        wait = workers.submit(fail)
        assert workers.submit(len, b"abc")() == 3
        with pytest.raises(ValueError, match="as told"):
            wait()


def test_one_thread_is_the_callers_own() -> None:
    with Workers(1) as workers:
        assert workers.submit(threading.get_ident)() == threading.get_ident()


def test_several_threads_are_others() -> None:
    with Workers(2) as workers:
        assert workers.submit(threading.get_ident)() != threading.get_ident()


def test_arguments_are_passed_on() -> None:
    for nr_threads in (1, 2):
        with Workers(nr_threads) as workers:
            assert workers.submit(int, "ff", base=16)() == 255


def test_by_default_there_are_as_many_threads_as_processors() -> None:
    assert Workers().nr_threads == len(os.sched_getaffinity(0))


def test_closing_ends_the_threads_and_may_be_done_twice() -> None:
    before = threading.active_count()
    workers = Workers(3)
    for wait in [workers.submit(time.sleep, 0.001) for _ in range(6)]:
        wait()
    assert threading.active_count() > before
    workers.close()
    workers.close()
    assert threading.active_count() == before
