"""xl with xsave as its save helper: at both ends, and at one of them with Xen's own."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from lab.guest import Guest
from lab.helper import HELPERS, OURS
from lab.host import Host

pytestmark = pytest.mark.xen

GetGuest = Callable[[str], Guest]

KINDS = ["pv", "pvh", "hvm"]
# Headers that a writer makes, and the device model's clocks, which go on.
MADE_BY_WRITERS = ("xen.xl.header", "xen.libxl.header", "xen.libxl.libxc_context",
                   "xen.libxc.header", "xen.qemu.context")  # fmt: skip
# What goes on counting although the guest stands still; and that a timer went past its middle.
CLOCK = re.compile(
    r"  (save_records/\d+/fields/(tsc|tmr_val)|nsec)  "
    r"|  save_records/\d+/fields/pm1a_sts  0  bits: none -> 1  bits: timer$"
)

# Runs Xen's own helper, and when the guest has suspended for it, has xsave save it as well.
BOTH = """#!/opt/xsave/bin/python
import os, struct, subprocess, sys

stock = subprocess.Popen([sys.argv[0] + ".stock", *sys.argv[1:]], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, close_fds=False)
while head := stock.stdout.read(2):
    body = stock.stdout.read(struct.unpack("=H", head)[0])
    os.write(1, head + body)
    number = struct.unpack_from("=H", body)[0]
    if number in (1, 2, 9):
        continue
    answer = os.read(0, 4)
    if number == 3:
        subprocess.run(["/opt/xsave/bin/xsave", "run", "xen:" + sys.argv[4], "/root/ours.xsv",
                        "--no-live", "--then", "pause"], stdin=subprocess.DEVNULL, stdout=2,
                       check=True)
    stock.stdin.write(answer)
    stock.stdin.flush()
sys.exit(stock.wait())
"""


def check_accepted(host: Host, image: str) -> None:
    """By Xen's own checker, which finds its modules where Debian puts them only when told."""
    program = host.run("ls /usr/lib/xen-*/bin/verify-stream-v2").strip()
    modules = program.replace("/bin/verify-stream-v2", "/lib/python")
    status, said = host.try_run(f"PYTHONPATH={modules} {program} -f xl -i {image}")
    assert status == 0, said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("saves", "restores"),
    [("ours", "stock"), ("stock", "ours"), ("ours", "ours"), ("native", "ours")],
)
def test_a_guest_goes_on_here_and_from_what_either_saved_and_either_restores(
    host: Host, get_guest: GetGuest, kind: str, saves: str, restores: str
) -> None:
    guest = get_guest(kind)
    before = guest.last_tick()
    host.xl(f"save -c {guest.name} /root/saved.xl", environment=HELPERS[saves])
    guest.check_goes_on(before)
    if saves == "ours":
        check_accepted(host, "/root/saved.xl")
    guest.restore("/root/saved.xl", HELPERS[restores], before)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_with_a_native_stream_is_small_and_leads_back_to_xens_own_tools(
    host: Host, get_guest: GetGuest, kind: str
) -> None:
    guest = get_guest(kind)
    before = guest.last_tick()
    host.xl(f"save {guest.name} /root/native.xl", environment=HELPERS["native"])
    assert not guest.is_there()
    said = host.run("cd /root; xsave identify native.xl; xsave verify native.xl")
    assert "inside    a stream of format native" in said
    host.run("cd /root; xsave convert native.xl stock.xl --to xl")
    sizes = host.run("cd /root; stat -c %s native.xl stock.xl").split()
    assert int(sizes[0]) <= int(sizes[1]) // 4
    guest.restore("/root/stock.xl", HELPERS["stock"], before)


@pytest.mark.parametrize("kind", KINDS)
def test_ours_and_the_stock_image_of_a_suspended_guest_hold_the_same(
    host: Host, get_guest: GetGuest, kind: str
) -> None:
    guest = get_guest(kind)
    before = guest.last_tick()
    host.put("/root/both", BOTH.encode())
    host.run(
        "chmod +x /root/both; ln -sf $(ls /usr/lib/xen-*/bin/libxl-save-helper) /root/both.stock"
    )
    host.xl(f"save -c {guest.name} /root/stock.xl", environment="LIBXL_SAVE_HELPER=/root/both")
    ignored = " ".join(f"--ignore {name}" for name in MADE_BY_WRITERS)
    status, said = host.try_run(f"cd /root; xsave diff ours.xsv stock.xl {ignored}")
    assert status in (0, 1), said
    assert "pfns the same" in said
    differing = [line for line in said.splitlines() if line.startswith("  ")]
    assert all(CLOCK.match(line) for line in differing), said
    guest.check_goes_on(before)


def test_a_third_partys_record_travels_in_a_native_stream(host: Host, get_guest: GetGuest) -> None:
    guest = get_guest("pvh")
    before = guest.last_tick()
    folder = f"/var/lib/swtpm/{guest.uuid}"
    host.run(f"mkdir -p {folder}; echo -n secret > {folder}/tpm2-00.permall")
    host.xl(f"save {guest.name} /root/saved.xl", environment=HELPERS["native"])
    said = host.run("xsave inspect /root/saved.xl --record vtpm.state")
    assert "736563726574" in said  # "secret", in the image
    host.run(f"rm -r {folder}")
    guest.restore("/root/saved.xl", HELPERS["ours"], before)
    assert host.run(f"cat {folder}/tpm2-00.permall") == "secret"
    host.run(f"rm -r {folder}")


@pytest.mark.parametrize("stream", ["ours", "native"])
def test_a_save_that_fails_leaves_the_guest_running_and_says_why(
    host: Host, get_guest: GetGuest, stream: str
) -> None:
    guest = get_guest("pv")
    before = guest.last_tick()
    host.run("mkdir -p /mnt/small; mount -t tmpfs -o size=1m none /mnt/small")
    status, said = host.try_run(
        f"{HELPERS[stream]} xl -v save {guest.name} /mnt/small/x < /dev/null; status=$?; "
        "umount /mnt/small; exit $status"
    )
    assert status != 0
    assert "cannot write the output: No space left on device" in said
    guest.check_goes_on(before)


@pytest.mark.parametrize("stream", ["ours", "native"])
def test_an_image_that_is_damaged_is_refused_with_its_place(
    host: Host, get_guest: GetGuest, stream: str
) -> None:
    guest = get_guest("hvm")
    host.xl(f"save {guest.name} /root/cut.xl", environment=HELPERS[stream])
    host.run("truncate -s -20000 /root/cut.xl")
    status, said = host.try_run(f"{OURS} xl restore /root/cut.xl > /root/said 2>&1 < /dev/null; "
                                "status=$?; cat /root/said; exit $status")  # fmt: skip
    assert status != 0
    assert "the image is cut" in said or "at offset" in said
    assert not guest.is_there()
