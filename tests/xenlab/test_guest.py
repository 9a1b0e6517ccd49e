"""What is heard of a guest, without a host."""

from __future__ import annotations

from lab.guest import Tick, parse_ticks


def test_ticks_of_both_kinds_of_guest_are_understood() -> None:
    console = (
        "Booting...\r\ntick 7 part 7 sum 0123456789abcdef ok\r\ntick 0x0000002a part 0 sum 8f ok\n"
    )
    assert parse_ticks(console) == [
        Tick(7, 7, "0123456789abcdef", good=True),
        Tick(42, 0, "8f", good=True),
    ]


def test_a_damaged_guest_is_heard() -> None:
    assert not parse_ticks("tick 8 part 8 sum 00 DAMAGED\n")[0].good


def test_half_a_line_is_no_tick() -> None:
    assert parse_ticks("tick 7 part 7 sum 0123 o") == []
    assert parse_ticks("tick 0x0000002a part 0 su") == []
