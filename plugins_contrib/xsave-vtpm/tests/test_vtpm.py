"""What xsave promises of a record handler, kept by this one."""

from __future__ import annotations

import cbor2
import pytest
from xsave import FieldError
from xsave.testing import HandlerSuite
from xsave.testing.pytest_plugin import MakeManager

import xsave_vtpm
from xsave_vtpm import VtpmHandler, VtpmState


def body(**changes: object) -> bytes:
    parts = {"version": 1, "tpm": "2.0", "nvram": {"permanent": b"\x01" * 40, "volatile": b""}}
    return cbor2.dumps(parts | changes, canonical=True)


class TestVtpmState(HandlerSuite):
    handler = VtpmHandler()
    bodies = (body(), body(tpm="1.2"), body(nvram={}))
    refused = (
        b"",
        body(version=2),
        body(tpm="3.0"),
        body(nvram={"permanent": "text"}),
        body(nvram={1: b""}),
        body(more=1),
        body() + b"\0",
        cbor2.dumps({"version": 1, "tpm": "2.0", "nvram": {}}),  # keys out of order
    )


def test_fields_have_their_names() -> None:
    handler = VtpmHandler()
    state = handler.decode(memoryview(body(nvram={"permanent": b"\xab"})))
    assert state == VtpmState("2.0", {"permanent": b"\xab"})
    assert handler.describe(state, {}) == {"tpm": "2.0", "nvram": {"permanent": "ab"}}


def test_a_wrong_field_is_named() -> None:
    with pytest.raises(FieldError, match=r"tpm: expected 1\.2 or 2\.0, got '3\.0'"):
        VtpmHandler().decode(memoryview(body(tpm="3.0")))


def test_the_plugin_loads_and_offers_its_record(make_manager: MakeManager) -> None:
    manager = make_manager(xsave_vtpm)
    assert manager.handlers.names() == ["vtpm.state"]
    assert not manager.handlers.find("vtpm.state").mandatory
