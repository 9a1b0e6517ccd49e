"""libvirt's Xen driver with xsave as libxl's helper: ``virsh save`` and ``virsh restore``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.build import LIBVIRT_UNITS
from lab.guest import FIRST_TICK_LIMIT_S, Guest
from lab.helper import OURS
from lab.host import Host

pytestmark = pytest.mark.xen

LOG = "/var/log/libvirt/libxl/libxl-driver.log"
LIMIT_S = 300  # measured: half a minute
IMAGE = "/root/virsh.save"
# Its driver wants a processor that it knows. Xen hides SYSENTER on AMD's, QEMU's emulation has no
# virtual 8086 extensions, and there is no model without both.
MODEL = "/usr/share/libvirt/cpu_map/x86_486.xml"


@pytest.fixture
def libvirt(host: Host) -> Iterator[None]:
    """Its daemon, told as docs/xen.md says."""
    settings = f"{OURS}\nLIBVIRT_DEBUG=2\n"  # and to hear what went well
    host.run(f"sed -i /vme/d {MODEL}; cat >> /etc/default/libvirtd", stdin=settings.encode())
    host.run("systemctl reset-failed; systemctl restart libvirtd; virsh list", limit_s=LIMIT_S)
    yield
    host.run(f"systemctl stop {' '.join(LIBVIRT_UNITS)}")


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_a_guest_of_libvirt_goes_on_from_what_virsh_saved(
    host: Host, libvirt: None, kind: str
) -> None:
    guest = Guest(host, kind)
    guest.destroy()
    host.run(f"rm -f {guest.console}; truncate -s 0 {LOG}")
    host.run(f"virsh domxml-from-native xen-xl /root/guests/{kind}.cfg > /root/guest.xml")
    try:
        host.run("virsh create /root/guest.xml")
        ticks = guest.wait_for_tick(1 + guest.parts, limit_s=FIRST_TICK_LIMIT_S)
        guest.sums = {tick.part: tick.sum for tick in ticks}

        host.run(f"virsh save {guest.name} {IMAGE}")
        assert not guest.is_there()
        last = guest.last_tick()
        assert "libvirt" in host.run(f"xsave identify {IMAGE}; xsave verify {IMAGE}")
        host.run(f"rm -f {guest.console}; virsh restore {IMAGE}")
        guest.check_goes_on(last)
        assert "running" in host.run(f"virsh domstate {guest.name}")
    finally:
        guest.destroy()
    log = host.run(f"cat {LOG}")
    assert "domain -> libxc-v3" in log
    assert "libxc -> domain" in log
