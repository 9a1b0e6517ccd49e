"""What two ends find out before a guest is touched, and what stays behind where it may."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import xsave
from xsave.io.journal import Journal
from xsave.negotiation import host_as_data
from xsave.pipeline.migrate import migrate
from xsave.pipeline.preflight import preflight

from .ends import GUEST, Ends, linked, make_ends

ends = make_ends


def test_persistent_tmem_that_cannot_be_taken_refuses_before_the_guest_is_touched(
    ends: Ends,
) -> None:
    with pytest.raises(xsave.RefusedError) as caught:
        ends.migrate(receiver=ends.receiver("sim:?host=b&host_tmem=no"))
    assert [refusal.name for refusal in caught.value.refusals] == ["tmem"]
    assert ends.guests("a") == {"web": True}
    assert ends.there.entries() == []


def test_ephemeral_tmem_stays_behind_and_both_reports_say_so(ends: Ends) -> None:
    source = GUEST.replace("tmem=20", "tmem=20&tmem_pools=ephemeral")
    report = ends.migrate(source, ends.receiver("sim:?host=b&host_tmem=off"))
    assert [notice.name for notice in report.notices] == ["tmem"]
    [(there, _)] = ends.told
    assert [notice.name for notice in there.notices] == ["tmem"]
    assert report.run is not None
    assert not any(name.startswith("xen.tmem") for name in report.run.records)
    assert ends.guests("b") == {"web": True}
    assert ends.sim.host("b").guests["web"].facets.get("tmem") is None


def test_pools_for_which_there_is_no_room_stay_behind_and_the_others_arrive(ends: Ends) -> None:
    source = GUEST.replace("tmem=20", "tmem=20&tmem_pools=persistent,ephemeral,ephemeral")
    ends.migrate(source, ends.receiver("sim:?host=b&host_tmem_pools=2"))
    guest = ends.sim.host("b").guests["web"]
    assert [pool_id for pool_id, *_ in guest.facets["tmem"].pools()] == [0, 1]


def test_another_processor_refuses(ends: Ends) -> None:
    with pytest.raises(xsave.RefusedError, match=r"cpu-features: .*avx2"):
        ends.migrate(receiver=ends.receiver("sim:?host=b&host_cpu=older"))
    assert ends.guests("a") == {"web": True}


def test_a_destination_without_a_plugin_refuses_its_records(ends: Ends) -> None:
    with pytest.raises(xsave.RefusedError) as caught:
        ends.migrate(receiver=ends.receiver(plugins=["pv"]))
    assert {refusal.name for refusal in caught.value.refusals} == {"record-missing"}
    assert "install plugin tmem there" in str(caught.value)


def test_a_name_that_is_taken_refuses(ends: Ends) -> None:
    ends.migrate()
    with pytest.raises(xsave.RefusedError, match="name-taken"):
        ends.migrate(receiver=ends.receiver("sim:?host=b&name=web"))


def test_preflight_of_a_live_end_tells_all_and_moves_nothing(ends: Ends) -> None:
    receiver = ends.receiver("sim:?host=b&host_memory=4M&host_tmem=no&host_cpu=older")
    with linked(receiver, ends) as connect:
        found = preflight(GUEST, connect, manager=ends.manager, answer_s=10)
    names = {refusal.name for refusal in found.refusals}
    assert names == {"memory", "cpu-features", "tmem"}
    assert ends.guests("a") == {"web": True}
    assert ends.here.entries() == ends.there.entries() == []
    assert ends.told == []


def test_a_description_in_a_file_is_as_good(ends: Ends, tmp_path: Path) -> None:
    described = tmp_path / "b.json"
    address = "sim:?host=b&host_tmem=no"
    found = preflight(GUEST, address, manager=ends.manager)
    described.write_text(json.dumps(host_as_data(found.host)))
    again = preflight(GUEST, str(described), manager=ends.manager)
    assert again.refusals == found.refusals
    assert [refusal.name for refusal in again.refusals] == ["tmem"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": "xsave/host/2"}', "{" * 5000, "\0" * 100]
)
def test_a_hostile_description_is_one_clear_error(ends: Ends, tmp_path: Path, text: str) -> None:
    described = tmp_path / "b.json"
    described.write_text(text)
    with pytest.raises(xsave.StreamError, match=r"b\.json is no description of a host"):
        preflight(GUEST, str(described), manager=ends.manager)


def test_an_image_is_examined_as_a_guest_is(ends: Ends, tmp_path: Path) -> None:
    image = tmp_path / "web.xsv"
    xsave.run(GUEST, image, manager=ends.manager)
    found = preflight(image, "sim:?host=b&host_memory=4M&host_tmem=no", manager=ends.manager)
    assert [refusal.name for refusal in found.refusals] == ["memory", "tmem"]
    assert found.guest == "web"


def test_a_newer_end_speaks_the_older_ones_version() -> None:
    from xsave.pipeline.negotiate import choose_protocol

    assert choose_protocol((1, 1)) == 1
    assert choose_protocol((1, 9)) == 1
    assert choose_protocol((2, 9)) is None


def test_nobody_there_is_try_again(ends: Ends, tmp_path: Path) -> None:
    with pytest.raises(xsave.TryAgainError):
        migrate(
            GUEST, f"unix:{tmp_path}/nobody", manager=ends.manager,
            journal=Journal(tmp_path / "here"),
        )  # fmt: skip
    assert ends.guests("a") == {"web": True}
