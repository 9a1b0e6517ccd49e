"""One table a kind: a name is offered once, and an unknown one lists the known."""

from __future__ import annotations

import pytest
from attrs import frozen

from xsave import DuplicateNameError, Owner, UnknownNameError
from xsave.registry import Registry

ONE, OTHER = Owner("one", "dist-one 1.0"), Owner("other", "dist-other 2.0")


@frozen
class Thing:
    name: str


def registry(*names: str) -> Registry[Thing]:
    made: Registry[Thing] = Registry("thing")
    for name in names:
        made.add(Thing(name), ONE)
    return made


def test_what_was_added_is_found_with_its_owner() -> None:
    things = registry("b", "a")
    assert things.find("a") == Thing("a")
    entry = things.get("b")
    assert entry is not None and entry.owner == ONE
    assert things.get("c") is None
    assert things.names() == ["a", "b"]
    assert things.items() == {"a": Thing("a"), "b": Thing("b")}
    assert [entry.item.name for entry in things] == ["b", "a"]
    assert len(things) == 2


def test_a_name_offered_twice_names_both_owners_and_keeps_the_first() -> None:
    things = registry("a")
    with pytest.raises(DuplicateNameError) as caught:
        things.add(Thing("a"), OTHER)
    assert str(caught.value) == (
        "thing 'a' is offered twice: by one (dist-one 1.0) and by other (dist-other 2.0)"
    )
    entry = things.get("a")
    assert entry is not None and entry.owner == ONE


def test_the_same_plugin_may_not_offer_a_name_twice_either() -> None:
    with pytest.raises(DuplicateNameError):
        registry("a", "a")


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match="no thing is named 'c'; known: a, b"):
        registry("b", "a").find("c")


def test_dropping_a_plugin_forgets_what_it_offered_and_nothing_else() -> None:
    things = registry("a", "b")
    things.add(Thing("c"), OTHER)
    things.drop("one")
    assert things.names() == ["c"]
    things.add(Thing("a"), OTHER)
