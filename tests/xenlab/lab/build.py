"""Making what a host boots from: Xen, a Debian dom0 and guests, of Debian's packages alone.

An image is named after what it was made from, this file among it, and is never written to
after it is there; each host writes to a layer of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError
from .programs import need_programs, run
from .releases import Release, cache_folder
from .wheels import dependencies, fetch_wheels, install_dependencies

HERE = Path(__file__).parent
GUEST = HERE / "guest"
DISK_BYTES = 6 << 30
PACKAGES = (
    "linux-image-amd64", "xenstore-utils", "qemu-system-xen", "systemd-sysv", "udev", "kmod",
    "iproute2", "procps", "openssh-server", "openssh-client", "python3", "python3-venv",
)  # fmt: skip
MODULES = (
    "xen-gntdev", "xen-gntalloc", "xen-evtchn", "xen-privcmd", "xenfs", "e1000", "ahci",
    "sd_mod", "ext4", "loop", "tun",
)  # fmt: skip
# Services that cost seconds of emulated time at each start, and are of no use here.
MASKED = ("e2scrub_reap.service", "systemd-binfmt.service", "getty-static.service",
          "apt-daily.timer", "apt-daily-upgrade.timer", "xendomains.service",
          "libvirt-guests.service", "logrotate.timer")  # fmt: skip
# Started by the tests that need them.
LIBVIRT_UNITS = ("libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket",
                 "libvirtd-admin.socket", "virtlogd.socket", "virtlockd.socket")  # fmt: skip
SSH_CONFIG = """Host *
 StrictHostKeyChecking no
 UserKnownHostsFile /dev/null
 LogLevel ERROR
"""
NETWORK = """[Match]
Name=ens4
[Network]
DHCP=ipv4
"""


@dataclass(frozen=True)
class HostImage:
    """What :func:`build` leaves behind.

    :ivar folder: holds disk.img (dom0's root), xen.elf, vmlinuz, initrd.img and id (a key
        for ssh).
    """

    release: Release
    folder: Path

    @property
    def is_built(self) -> bool:
        return self.folder.is_dir()

    @property
    def key(self) -> Path:
        return self.folder / "id"


def host_image(release: Release) -> HostImage:
    """The one that today's sources make, built or not."""
    made_from = hashlib.sha256()
    for file in sorted([*GUEST.iterdir(), *HERE.glob("build.py"), *HERE.glob("wheels.py")]):
        made_from.update(f"{file.name}\0".encode() + file.read_bytes() + b"\0")
    made_from.update(
        "\0".join([release.suite, release.xen, *release.packages, *dependencies()]).encode()
    )
    name = f"{release.suite}-{made_from.hexdigest()[:12]}"
    return HostImage(release, cache_folder() / "images" / name)


def build(release: Release, say: Callable[[str], None]) -> HostImage:
    """Two to four minutes; at once if it is there. It appears whole or not at all.

    :param say: takes what is being done.
    :raises LabError: it cannot be made here.
    """
    image = host_image(release)
    if image.is_built:
        say(f"{image.folder} is built already")
        return image
    need_programs()
    if os.geteuid() != 0:
        raise LabError("building a host makes device nodes and changes root: run it as root")
    image.folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".building-", dir=image.folder.parent))
    try:
        _build_into(work, release, say)
        work.chmod(0o755)
        try:
            work.rename(image.folder)
        except OSError:
            if not image.is_built:  # else somebody else was faster
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"built {image.folder}")
    return image


def _build_into(work: Path, release: Release, say: Callable[[str], None]) -> None:
    root = work / "root"
    say(f"debootstrap {release.suite}: Xen {release.xen}, dom0 and its packages")
    packages = (*PACKAGES, f"xen-hypervisor-{release.xen}-amd64", f"xen-utils-{release.xen}")
    run("debootstrap", "--variant=minbase", f"--include={','.join(packages)}", release.suite, root)
    _install(root, release.packages)
    say("guests, configuration, Python packages")
    _add_guests(root / "root" / "guests")
    _configure(root, work, release)
    wheels = fetch_wheels(release, work / "wheels")
    install_dependencies(root, wheels)
    say("initial memory disk and root file system")
    run("chroot", root, "update-initramfs", "-u")
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    hypervisor = root / "boot" / f"xen-{release.xen}-amd64.gz"
    (work / "xen.elf").write_bytes(run("gzip", "-dc", hypervisor))  # a multiboot kernel
    shutil.copy(_only(root / "boot", "vmlinuz-*"), work / "vmlinuz")
    shutil.copy(_only(root / "boot", "initrd.img-*"), work / "initrd.img")
    disk = work / "disk.img"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    run("mkfs.ext4", "-q", "-F", "-d", root, disk)
    shutil.rmtree(root)
    shutil.rmtree(work / "wheels")


def _install(root: Path, packages: Sequence[str]) -> None:
    """By apt, with nothing started: what debootstrap configures in too simple an order."""
    if not packages:
        return
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    apt = ("chroot", root, "apt-get", "-qq")
    run(*apt, "update")
    run(*apt, "install", "-y", "--no-install-recommends", *packages,
        env={"DEBIAN_FRONTEND": "noninteractive"})  # fmt: skip
    policy.unlink()
    shutil.rmtree(root / "var/lib/apt/lists")


def _add_guests(folder: Path) -> None:
    folder.mkdir(parents=True)
    for config in GUEST.glob("*.cfg"):
        shutil.copy(config, folder)
    shutil.copy(_only(folder.parent.parent / "boot", "vmlinuz-*"), folder / "vmlinuz")
    with tempfile.TemporaryDirectory() as place:
        made = Path(place)
        (made / "bin").mkdir()
        shutil.copy(shutil.which("busybox") or "/bin/busybox", made / "bin" / "busybox")
        shutil.copy(GUEST / "init", made / "init")
        (made / "init").chmod(0o755)
        names = "\n".join(str(path.relative_to(made)) for path in sorted(made.rglob("*")))
        archive = run("cpio", "-o", "-H", "newc", stdin=names.encode(), cwd=made)
        (folder / "guest.img").write_bytes(run("gzip", "-1", stdin=archive))
    with tempfile.TemporaryDirectory() as place:
        built, sector = Path(place, "boot_sector.o"), Path(place, "boot_sector.bin")
        run("as", "--32", "-o", built, GUEST / "boot_sector.s")
        run("ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-e", "_start",
            "-o", sector, built)  # fmt: skip
        contents = sector.read_bytes()
    if len(contents) != 512:
        raise LabError(f"the boot sector has {len(contents)} bytes, not 512")
    (folder / "boot_sector.img").write_bytes(contents.ljust(1 << 20, b"\0"))


def _configure(root: Path, work: Path, release: Release) -> None:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / "id")
    ssh = root / "root" / ".ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(work / "id.pub", ssh / "authorized_keys")
    shutil.copy(work / "id", ssh / "id_ed25519")  # from host to host, for xl migrate
    (ssh / "id_ed25519").chmod(0o600)
    (ssh / "config").write_text(SSH_CONFIG)
    (root / "etc/systemd/network/10-uplink.network").write_text(NETWORK)
    (root / "etc/fstab").write_text("/dev/sda / ext4 defaults 0 1\n")
    with (root / "etc/initramfs-tools/modules").open("a") as file:
        file.write("\n".join(MODULES) + "\n")
    with (root / "etc/default/xen").open("a") as file:
        file.write("\nXENCONSOLED_ARGS='--log=guest'\n")  # consoles go to /var/log/xen/console
    (root / "var/log/xen/console").mkdir(parents=True, exist_ok=True)
    run("chroot", root, "systemctl", "enable", "systemd-networkd", "ssh")
    if release.packages:
        run("chroot", root, "systemctl", "disable", *LIBVIRT_UNITS)
    run("chroot", root, "systemctl", "mask", *MASKED)


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise LabError(f"{folder}: expected one {pattern}, found {len(found)}")
    return found[0]
