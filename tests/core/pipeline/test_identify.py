"""Files are named by their beginning, unwrapped, and read no further than their headers."""

from __future__ import annotations

import io

import pytest

from tests.core import toy
from xsave import PluginManager, UnrecognisedError, identify


def seen(name: str, **more: object) -> toy.Plugin:
    format_ = toy.variant(
        toy.Toy, name=name, summary=f"{name}: not read", suffixes=(), readable=False,
        writable=False, explain=lambda _self, head: f"{len(head)} bytes", **more,
    )  # fmt: skip
    return toy.Plugin(name, format_)


def test_what_is_read_comes_with_what_its_headers_say(manager: PluginManager) -> None:
    found = identify(io.BytesIO(toy.image()), manager=manager)
    assert (found.name, found.readable, found.writable, found.codecs) == ("toy", True, True, [])
    assert found.info is not None and found.info.format == "toy"
    assert found.why.startswith("it begins with 54 4f 59 0a")
    assert not found.fault and not found.others


def test_wrappers_are_named_from_the_outside(manager: PluginManager) -> None:
    found = identify(io.BytesIO(toy.flipped_file(toy.flipped_file(toy.image()))), manager=manager)
    assert (found.name, found.codecs) == ("toy", ["flip", "flip"])


def test_only_the_headers_are_read(manager: PluginManager) -> None:
    """Cut behind them it is still named; cut inside, with what is wrong."""
    assert identify(io.BytesIO(toy.image()[:6]), manager=manager).info is not None
    cut = identify(io.BytesIO(toy.image()[:5]), manager=manager)
    assert cut.name == "toy" and cut.info is None
    assert "the image is cut" in cut.fault


def test_what_is_known_by_sight_is_named_and_not_read() -> None:
    manager = toy.make_manager(seen("picture", sniff=lambda _self, head: head == b"PIC"))
    found = identify(io.BytesIO(b"PIC"), manager=manager)
    assert (found.name, found.readable, found.info) == ("picture", False, None)
    assert (found.summary, found.why) == ("picture: not read", "3 bytes")


def test_a_format_that_is_read_counts_before_one_known_by_sight() -> None:
    manager = toy.make_manager(seen("picture"))
    found = identify(io.BytesIO(toy.image()), manager=manager)
    assert (found.name, found.others) == ("toy", [])


def test_several_claims_are_all_named() -> None:
    manager = toy.make_manager(toy.Plugin("more", toy.variant(toy.Toy, name="more", suffixes=())))
    found = identify(io.BytesIO(toy.image()), manager=manager)
    assert (found.name, found.others) == ("toy", ["more"])


def test_what_nobody_knows_is_an_error(manager: PluginManager) -> None:
    with pytest.raises(UnrecognisedError, match=r"of no known format: it begins with 77 68 6f"):
        identify(io.BytesIO(b"who?"), manager=manager)
    with pytest.raises(UnrecognisedError, match=r"it begins with 77 68 6f .*\(in flip\)"):
        identify(io.BytesIO(toy.flipped_file(b"who?")), manager=manager)
