from __future__ import annotations

import gc
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.xen_host.fake_xen import FakeGuest, FakeXen
from tests.plugins.xen_host.test_domain import connection, hvm_guest
from xsave import PAGE_SIZE, UsageError, verify
from xsave_plugins.xen_host import save_helper
from xsave_plugins.xen_host.control import Control
from xsave_plugins.xen_host.libxl_link import LibxlLink
from xsave_plugins.xen_host.save_helper import RestoreRequest, SaveRequest, parse, serve

SUSPENDED = 4 | 2 << 16
# An HVM context as small as Xen would take it: a header, and the end.
CONTEXT = (
    struct.pack("<HHI", 1, 0, 24) + struct.pack("<IIQII", 0x54381286, 1, 0, 0, 0)
    + struct.pack("<HHI", 0, 0, 0)
)  # fmt: skip


class Libxl:
    """Answers each question well; suspends the guest when asked to.

    :ivar heard: (number, fields) of each message.
    """

    def __init__(self, guest: FakeGuest, answers: dict[int, int] | None = None) -> None:
        self.guest = guest
        self.answers = {3: 1} if answers is None else answers
        self.heard: list[tuple[int, bytes]] = []
        self.waiting = b""

    def link(self, offered: int) -> LibxlLink:
        return LibxlLink(offered, self.hear, self.say)

    def hear(self, data: bytes) -> None:
        size, number = struct.unpack_from("=HH", data)
        assert len(data) == 2 + size
        self.heard.append((number, data[4:]))
        if number == 3:
            self.guest.flags = SUSPENDED
        if number not in (1, 2, 9):
            self.waiting += struct.pack("=i", self.answers.get(number, 0))

    def say(self, size: int) -> bytes:
        piece, self.waiting = self.waiting[:size], self.waiting[size:]
        return piece

    def asked(self) -> list[int]:
        """Without logs and progress."""
        return [number for number, _ in self.heard if number > 2]

    def logged(self) -> str:
        return b"".join(fields for number, fields in self.heard if number == 1).decode("latin-1")


@pytest.fixture
def xen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeXen:
    """Two domains: 7, that runs, and 8, empty."""
    source = hvm_guest()
    source.context, source.params = CONTEXT, {1: 5, 17: 1, 12: 0xFE000}
    source.leaves, source.msrs = struct.pack("<6I", 0, 0xFFFFFFFF, 1, 2, 3, 4), bytes(16)
    made = FakeXen(source, FakeGuest(domid=8))
    settings = tmp_path / "helper.toml"
    settings.touch()
    monkeypatch.setenv("XSAVE_HELPER_CONFIG", str(settings))
    monkeypatch.setattr("xsave_plugins.xen_host.guard.FOLDER", tmp_path / "run")
    monkeypatch.setattr("xsave_plugins.xen_host.connection.Connection", lambda: connection(made))
    return made


def save(xen: FakeXen, path: Path, libxl: Libxl, flags: int = 0, offered: int = 136) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        return serve(SaveRequest(fd, -1, 7, flags, offered, 0), libxl.link(offered))
    finally:
        os.close(fd)


@pytest.mark.parametrize("live", [0, 1])
def test_a_guest_is_saved_as_libxl_wants_it(xen: FakeXen, tmp_path: Path, live: int) -> None:
    path, libxl = tmp_path / "image.libxc", Libxl(xen.guests[7])
    assert save(xen, path, libxl, flags=live) == 0
    assert libxl.asked() == ([7, 3, 7, 10] if live else [3, 10])
    assert libxl.heard[-1] == (10, struct.pack("=ii", 0, 0))
    assert "domain 7 stood still for" in libxl.logged()
    assert verify(path).source.xen_version == "4.17"
    assert not xen.guests[7].logging
    assert xen.guests[7].flags == SUSPENDED  # libxl decides what becomes of it
    assert xen.guests[7].asked.count("resume") == 0


def restore_before(path: Path, behind: bytes, libxl: Libxl) -> None:
    """Into domain 8, from an image with something behind it that must be left alone."""
    with path.open("ab") as file:
        file.write(behind)
    fd = os.open(path, os.O_RDONLY)
    try:
        request = RestoreRequest(fd, -1, 8, 3, 0, 4, 0, 768, 0)
        assert serve(request, libxl.link(768)) == 0
        assert os.read(fd, 100) == behind
    finally:
        os.close(fd)


def test_what_was_saved_is_restored_and_not_a_byte_behind_it_is_read(
    xen: FakeXen, tmp_path: Path
) -> None:
    path = tmp_path / "image.libxc"
    save(xen, path, Libxl(xen.guests[7]))
    new = xen.guests[8]
    libxl = Libxl(new)
    restore_before(path, b"what libxl reads next", libxl)
    assert libxl.asked() == [8, 9, 10]
    said = dict(libxl.heard)
    assert said[8] == struct.pack("=I", 0)
    assert said[9] == struct.pack("=QQ", 5, 1)
    assert said[10] == struct.pack("=ii", 0, 0)
    assert bytes(new.frames[0]) == bytes(xen.guests[7].frames[0])
    assert not any(new.frames[5])  # the store's ring begins empty
    assert (new.context, new.params[2], new.params[18]) == (CONTEXT, 3, 4)
    assert new.leaves == xen.guests[7].leaves


@pytest.mark.parametrize("live", [0, 1])
def test_a_native_stream_is_written_where_that_was_asked_for_and_told_by_its_bytes(
    xen: FakeXen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: int
) -> None:
    path = tmp_path / "image"
    monkeypatch.setenv("XSAVE_HELPER_STREAM", "native")
    monkeypatch.setenv("XSAVE_HELPER_CODEC", "zstd:1")
    save(xen, path, Libxl(xen.guests[7]), flags=live)
    found = verify(path)
    assert found.source.format == "native"
    assert found.source.details["source"]["domid"] == 7
    assert path.stat().st_size < 3 * PAGE_SIZE
    monkeypatch.delenv("XSAVE_HELPER_STREAM")  # whoever reads it needs no word of it
    new = xen.guests[8]
    libxl = Libxl(new)
    restore_before(path, b"\x02\0\0\0\x08\0\0\0 and so on", libxl)
    assert libxl.asked() == [8, 9, 10]
    assert bytes(new.frames[0]) == bytes(xen.guests[7].frames[0])
    assert (new.context, new.params[2], new.params[18]) == (CONTEXT, 3, 4)
    assert new.leaves == xen.guests[7].leaves


def test_a_native_stream_that_is_damaged_is_told_with_its_place(
    xen: FakeXen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    monkeypatch.setenv("XSAVE_HELPER_STREAM", "native")
    save(xen, path, Libxl(xen.guests[7]))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    libxl = Libxl(xen.guests[8])
    fd = os.open(path, os.O_RDONLY)
    try:
        serve(RestoreRequest(fd, -1, 8, 3, 0, 4, 0, 768, 0), libxl.link(768))
    finally:
        os.close(fd)
    assert libxl.heard[-1] == (10, struct.pack("=ii", -1, 5))
    assert "damaged" in libxl.logged()


def test_settings_that_make_no_sense_stop_a_save_before_it_begins(
    xen: FakeXen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XSAVE_HELPER_STREAM", "naive")
    libxl = Libxl(xen.guests[7])
    save(xen, tmp_path / "x", libxl)
    assert libxl.asked() == [10]
    assert "XSAVE_HELPER_STREAM: expected libxc or native, got 'naive'" in libxl.logged()
    assert xen.guests[7].asked == []


def test_a_guest_that_cannot_be_suspended_is_told_with_the_reason(
    xen: FakeXen, tmp_path: Path
) -> None:
    libxl = Libxl(xen.guests[7], answers={3: 0})
    assert save(xen, tmp_path / "x", libxl, flags=1) == 0
    assert libxl.heard[-1] == (10, struct.pack("=ii", -1, 5))
    assert "libxl could not suspend the guest" in libxl.logged()
    assert not xen.guests[7].logging


def test_a_damaged_stream_is_told_with_its_place(xen: FakeXen, tmp_path: Path) -> None:
    path = tmp_path / "image.libxc"
    save(xen, path, Libxl(xen.guests[7]))
    data = bytearray(path.read_bytes())
    data[40 + 4] ^= 0x40  # the first record's length
    path.write_bytes(data)
    libxl = Libxl(xen.guests[8])
    fd = os.open(path, os.O_RDONLY)
    try:
        serve(RestoreRequest(fd, -1, 8, 3, 0, 4, 0, 768, 0), libxl.link(768))
    finally:
        os.close(fd)
    assert libxl.asked() == [9, 10]
    assert libxl.heard[-1] == (10, struct.pack("=ii", -1, 5))
    assert "at offset 0x28" in libxl.logged()


def test_checkpointed_streams_are_refused(xen: FakeXen) -> None:
    libxl = Libxl(xen.guests[7])
    serve(SaveRequest(0, 0, 7, 0, 136, 1), libxl.link(136))
    assert libxl.heard[-1] == (10, struct.pack("=ii", -1, 5))
    assert "Remus" in libxl.logged()


def test_asked_to_stop_it_leaves_the_guest_as_it_was(
    xen: FakeXen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    types_of = Control.page_types

    def stop(*arguments: Any, **options: Any) -> Any:
        if xen.guests[7].logging:  # in the middle of its memory
            raise save_helper._StoppedError("libxl has asked to stop")
        return types_of(*arguments, **options)

    monkeypatch.setattr("xsave_plugins.xen_host.control.Control.page_types", stop)
    libxl = Libxl(xen.guests[7])
    assert save(xen, tmp_path / "x", libxl, flags=1) == 0
    assert libxl.asked() == [7, 7, 10]  # the device model logs, and logs no more
    assert libxl.heard[-1] == (10, struct.pack("=ii", -1, 4))
    assert not xen.guests[7].logging


def test_a_bug_of_ours_is_told_and_the_guest_left(
    xen: FakeXen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def broken(*_arguments: Any, **_options: Any) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("xsave_plugins.xen_host.control.Control.page_types", broken)
    libxl = Libxl(xen.guests[7])
    assert save(xen, tmp_path / "x", libxl, flags=1) == 0
    assert libxl.heard[-1] == (10, struct.pack("=ii", -1, 22))
    assert "this is a bug" in libxl.logged()
    assert "oops" in capsys.readouterr().err
    assert not xen.guests[7].logging


def test_arguments_are_those_that_libxl_gives() -> None:
    words = ["--save-domain", "14", "11", "5", "0", "136", "0"]
    assert parse(words) == SaveRequest(14, 11, 5, 0, 136, 0)
    words = ["--restore-domain", "12", "-1", "6", "1", "0", "2", "0", "768", "0"]
    assert parse(words) == RestoreRequest(12, -1, 6, 1, 0, 2, 0, 768, 0)


def test_it_asks_xen_for_no_more_than_its_stream_needs(
    xen: FakeXen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest dirties more in the time that this takes."""
    types_of, asked = Control.page_types, []

    def ask(control: Control, gfns: Any) -> Any:
        asked.append(len(gfns))
        return types_of(control, gfns)

    monkeypatch.setattr("xsave_plugins.xen_host.control.Control.page_types", ask)
    path = tmp_path / "image.libxc"
    save(xen, path, Libxl(xen.guests[7]), flags=1)
    assert sum(asked) == verify(path).nr_pfns
    on, look, clean, off = 2, 12, 11, 0
    logged = [one for one in xen.guests[7].asked if one.startswith("shadow")]
    assert logged == [f"shadow {one}" for one in (on, look, clean, off)]


def test_garbage_is_looked_for_only_among_what_is_new_while_the_guest_stands_still(
    xen: FakeXen, tmp_path: Path
) -> None:
    frozen: dict[int, int] = {}

    class Looking(Libxl):
        def hear(self, data: bytes) -> None:
            super().hear(data)
            frozen[self.heard[-1][0]] = gc.get_freeze_count()

    path = tmp_path / "image.libxc"
    save(xen, path, Looking(xen.guests[7]), flags=1)
    restore_before(path, b"", Looking(xen.guests[8]))
    suspended, static_data_done = frozen[3], frozen[8]
    assert min(suspended, static_data_done) > len(gc.get_objects()) // 2
    assert gc.get_freeze_count() == 0


def test_it_ends_at_once_when_libxl_has_been_told_how_it_went() -> None:
    """The guest stands still until libxl has seen the process end."""
    program = (
        "import atexit, sys; atexit.register(print, 'torn down', file=sys.stderr); "
        "from xsave_plugins.xen_host.save_helper import main; main()"
    )
    words = ["--save-domain", "1", "-1", "7", "0", "136", "1"]  # Remus, which is refused
    done = subprocess.run(
        [sys.executable, "-c", program, *words], input=struct.pack("=i", 0), capture_output=True,
        check=False, env={**os.environ, "XSAVE_HELPER_CONFIG": os.devnull},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(struct.pack("=HHii", 10, 10, -1, 5))


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["--save-domain", "1"], ["--save-domain", *"abcdef"]]
)
def test_a_person_who_runs_it_is_told_what_it_is_for(words: list[str]) -> None:
    with pytest.raises(UsageError, match="is run by libxl: export LIBXL_SAVE_HELPER="):
        parse(words)


def test_the_program_is_installed_and_says_what_it_is_for() -> None:
    program = Path(sys.executable).with_name("xsave-libxl-helper")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is run by libxl" in done.stderr
    assert done.stdout == ""
