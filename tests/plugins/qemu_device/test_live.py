"""The device model's state goes from one domain to another, unseen."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.fake_domain import FakeDeviceModel, FakeDomain, apply, bodies, move
from xsave import FieldError, GuestType, RecordHandler, XsaveError
from xsave_plugins.qemu_device.context import QemuContextHandler
from xsave_plugins.qemu_device.xenstore_data import XenstoreDataHandler

RECORDS = Path(__file__).parents[2] / "golden" / "records"
KEYS = b"physmap/f0000000/start_addr\0f0000000\0physmap/f0000000/size\0800000\0"
HEADER = struct.pack("<II", 2, 0)


def domain(*known: Any) -> FakeDomain:
    return FakeDomain(GuestType.X86_HVM, 4, facets={"device_model": FakeDeviceModel(*known)})


@pytest.mark.parametrize("blob", [b"anything", b""])
def test_its_state_is_handed_on_as_it_is(blob: bytes) -> None:
    source, dest = domain(2, blob), domain()
    assert move(QemuContextHandler(), source, dest) == [HEADER + blob]
    assert dest.facets["device_model"] == source.facets["device_model"]


def test_a_real_record_comes_back_from_a_domain() -> None:
    body = (RECORDS / "xen.qemu.context.hvm.bin").read_bytes()
    middle = domain()
    apply(QemuContextHandler(), middle, body)
    assert bodies(QemuContextHandler(), middle) == [body]


def test_what_it_keeps_in_xenstore_is_handed_on() -> None:
    source, dest = domain(2, b"", KEYS), domain()
    assert move(XenstoreDataHandler(), source, dest) == [HEADER + KEYS]
    assert dest.facets["device_model"].keys == KEYS
    assert dest.facets["device_model"].emulator == 2


def test_nothing_in_xenstore_is_no_record() -> None:
    assert not bodies(XenstoreDataHandler(), domain(2, b"blob"))


def test_keys_that_a_restorer_would_refuse_are_not_saved() -> None:
    with pytest.raises(FieldError, match="directory"):
        bodies(XenstoreDataHandler(), domain(2, b"", b"../up\0x\0"))


@pytest.mark.parametrize("handler", [QemuContextHandler(), XenstoreDataHandler()])
def test_a_guest_without_a_device_model_has_none_and_takes_none(
    handler: RecordHandler[Any],
) -> None:
    bare = FakeDomain(GuestType.X86_HVM, 4)
    assert not bodies(handler, bare)
    with pytest.raises(XsaveError, match="no 'device_model' state"):
        apply(handler, bare, HEADER)
