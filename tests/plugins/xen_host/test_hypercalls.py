from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from tests.plugins.xen_host.fake_xen import FakeGuest, FakeXen
from xsave import XsaveError
from xsave_plugins.xen_host import abi
from xsave_plugins.xen_host.control import Control
from xsave_plugins.xen_host.hypercalls import HypercallError, Hypercalls
from xsave_plugins.xen_host.libraries import PACKAGES, PROTOTYPES, Libraries, load_libraries


def connect(xen: FakeXen) -> Hypercalls:
    return Hypercalls(Libraries(xen, xen))


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (abi.DOMCTL_HEADER, 16), (abi.DOMAIN_INFO, 92), (abi.SHADOW, 40), (abi.VCPU_CONTEXT, 16),
        (abi.VCPU_INFO, 20), (abi.HVM_CONTEXT, 16), (abi.TSC_INFO, 24), (abi.EXT_STATE, 32),
        (abi.MSRS, 16), (abi.CPU_POLICY, 36), (abi.RESERVATION, 32), (abi.MFN_LIST, 24),
        (abi.MMUEXT, 24), (abi.HVM_PARAM, 16), (abi.REMOTE_SHUTDOWN, 8), (abi.GRANT_ENTRY, 8),
    ],
)  # fmt: skip
def test_layouts_have_the_sizes_of_the_64_bit_interface(layout: object, size: int) -> None:
    assert layout.size == size  # type: ignore[attr-defined]


@pytest.mark.parametrize("interface", sorted(abi.DOMCTL_VERSIONS))
def test_the_interface_is_found_whichever_of_the_known_ones_it_is(interface: int) -> None:
    xen = FakeXen(FakeGuest(), interface=interface)
    calls = connect(xen)
    assert calls.version == "4.17"
    assert Control(calls, 7).state().is_hvm
    calls.close()


def test_a_xen_with_an_interface_that_is_not_known_is_refused() -> None:
    with pytest.raises(XsaveError, match=r"Xen 4\.99 .* does not know; known are those of 4\.17"):
        connect(FakeXen(interface=0x99, version=0x40063))


def test_a_machine_without_xen_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(XsaveError, match="no Xen here: xen: addresses work in dom0"):
        load_libraries([tmp_path / "privcmd"])


def test_who_may_not_speak_to_xen_is_told_as_such() -> None:
    xen = FakeXen()
    xen.is_open = False
    with pytest.raises(XsaveError, match=r"/dev/xen/privcmd: Permission denied: .* need root"):
        connect(xen)


def test_a_dom0_that_may_not_control_is_told_as_such() -> None:
    xen = FakeXen()
    xen.refuse[abi.GET_DOMAIN_INFO] = errno.EPERM
    with pytest.raises(XsaveError, match=r"control over domains \(is this dom0, and root\?\)"):
        connect(xen)


def test_a_refusal_says_of_what_and_why() -> None:
    xen = FakeXen(FakeGuest())
    calls = connect(xen)
    xen.refuse[abi.GET_TSC_INFO] = errno.EBUSY
    with pytest.raises(
        HypercallError, match="Xen refused TSC of domain 7: Device or resource busy"
    ):
        Control(calls, 7).tsc_info()


def test_buffers_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    xen = FakeXen(FakeGuest(context=b"records"))
    calls = connect(xen)
    before = len(xen.buffers)
    assert Control(calls, 7).hvm_context() == b"records"
    assert len(xen.buffers) == before


def test_a_missing_library_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, **_options: object) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", missing)
    with pytest.raises(XsaveError, match=re.escape("libxencall.so.1") + ".*libxencall1"):
        load_libraries([Path("/")])
    assert set(PACKAGES) == set(PROTOTYPES)


def test_an_old_library_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _name, **_options: object())
    with pytest.raises(XsaveError, match=r"has no xencall_open: it is older"):
        load_libraries([Path("/")])
