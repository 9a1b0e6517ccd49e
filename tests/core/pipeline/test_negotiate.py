"""What the core itself looks at before a guest goes, without any plugin's word."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from tests.core import toy
from xsave import GuestOffer, HostDescription, RecordError
from xsave.negotiation import OfferedRecord
from xsave.pipeline.negotiate import Examination, examine, small, stays_behind, with_states

MANAGER = toy.make_manager()
HANDLERS = MANAGER.handler_table()
OFFER = GuestOffer(
    name="web", guest_type="x86_hvm", memory_bytes=1 << 20, format="toy",
    records={"toy.text": OfferedRecord(1, True, "toy", sure=True)},
)  # fmt: skip
HOST = HostDescription(
    host="b", formats=("toy",), codecs=("flip",), records={"toy.text": 1},
    memory_free_bytes=1 << 20, guest_types=("x86_hvm",),
)  # fmt: skip


def examined(host: HostDescription = HOST, offer: GuestOffer = OFFER) -> Examination:
    return examine(offer, host, MANAGER, HANDLERS)


def test_what_fits_is_not_refused() -> None:
    assert examined() == Examination()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("protocol", {"protocol": (7, 9)}), ("format", {"formats": ("other",)}),
        ("guest-type", {"guest_types": ("x86_pv",)}), ("page-size", {"page_size": 16384}),
        ("memory", {"memory_free_bytes": 4096}), ("name-taken", {"name_taken": True}),
        ("record-missing", {"records": {}}), ("record-version", {"records": {"toy.text": 0}}),
    ],
)  # fmt: skip
def test_each_thing_that_does_not_fit_has_a_name_a_reason_and_a_remedy(
    name: str, change: dict[str, Any]
) -> None:
    [refusal] = examined(evolve(HOST, **change)).refusals
    assert refusal.name == name
    assert refusal.reason
    assert refusal.remedy


def test_all_are_told_at_once() -> None:
    host = evolve(HOST, formats=(), memory_free_bytes=0, name_taken=True, p2m_size_max=1)
    found = examined(host, evolve(OFFER, codec="zip", p2m_size=7))
    assert {refusal.name for refusal in found.refusals} == {
        "format", "codec", "memory", "name-taken", "guest-size",
    }  # fmt: skip


def test_a_host_that_does_not_say_is_not_asked_for_more() -> None:
    assert examined(evolve(HOST, memory_free_bytes=None, guest_types=())).refusals == ()


@pytest.mark.parametrize(
    ("mandatory", "sure", "without"),
    [(False, True, {"toy.text": {None}}), (True, False, {})],
)
def test_an_optional_record_stays_behind_and_a_perhaps_is_only_told(
    mandatory: bool, sure: bool, without: dict[str, Any]
) -> None:
    offer = evolve(OFFER, records={"toy.text": OfferedRecord(1, mandatory, "toy", sure)})
    found = examined(evolve(HOST, records={}), offer)
    assert found.refusals == ()
    assert [notice.name for notice in found.notices] == ["record-missing"]
    assert found.without == without


def test_a_plain_xen_end_is_told_as_one_way() -> None:
    found = examined(evolve(HOST, speaks="xen", formats=("libxc",)))
    assert found.refusals == ()
    assert [notice.name for notice in found.notices] == ["one-way"]


def test_what_both_ends_find_is_told_once() -> None:
    found = examined(evolve(HOST, name_taken=True))
    assert found.joined(found) == found


def test_of_one_record_some_may_stay_behind() -> None:
    without = {"a": frozenset({1, 2}), "b": frozenset({None})}
    kept = [(name, key) for name in "abc" for key in (1, 3) if stays_behind(without, name, key)]
    assert kept == [("a", 1), ("b", 1), ("b", 3)]


def test_early_records_are_decoded_where_they_are_examined() -> None:
    offer = with_states(evolve(OFFER, bodies={"toy.text": (b"hello",), "no.such": (b"x",)}),
                        HANDLERS)  # fmt: skip
    assert len(offer.states_of("toy.text")) == 1
    assert offer.states_of("no.such") == ()


def test_an_early_record_that_is_wrong_is_named() -> None:
    with pytest.raises(RecordError, match=r"toy\.text at offset 0x0: as offered"):
        with_states(evolve(OFFER, bodies={"toy.text": (b"",)}), HANDLERS)


def test_large_bodies_do_not_travel() -> None:
    found = small({"a": [b"x"], "b": [bytes(1 << 20)], "c": [bytes(60_000)] * 20, "d": []})
    assert found == {"a": (b"x",)}
