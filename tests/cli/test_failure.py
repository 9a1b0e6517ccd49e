"""Every documented exit code is produced here; docs/exit-codes.md shows the same."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

import xsave
from xsave.cli import main
from xsave.cli.group import EXIT_CODES
from xsave.io.journal import Entry, Journal

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Valid = Callable[[bytes | str], dict[str, Any]]


def forge(image: bytes) -> bytes:
    """The same native image with another seal, whose own piece is right again."""
    (end,) = struct.unpack_from("<Q", image, len(image) - 16)
    head_size, table_size = struct.unpack_from("<II", image, end + 8)
    assert table_size == 0
    head = image[end + 32 : end + 32 + head_size]
    at = head.index(b"dsealX ") + 7  # CBOR: text of 4, then bytes of 32
    head = head[:at] + bytes([head[at] ^ 1]) + head[at + 1 :]
    prefix = image[end : end + 24]
    total = struct.pack("<Q", xxhash.xxh3_64_intdigest(prefix + head))
    return image[:end] + prefix + total + head + image[end + 32 + head_size :]


def left_open(folder: Path) -> Path:
    """A journal in which a guest was given away, and nobody answers."""
    with Journal(folder).hold("5" * 32, "source") as held:
        held.write(Entry(id="5" * 32, role="source", state="given", address="unix:/nothing"))
    return folder


def test_each_exit_code_is_produced(
    run_xsave: Run, small_image: Path, native_image: Path, tmp_path: Path, acme: dict[str, str]
) -> None:
    image, note = native_image.read_bytes(), tmp_path / "note"
    note.write_bytes(b"x")
    noted, dest = tmp_path / "noted.xsv", tmp_path / "a.save"
    run_xsave("run", small_image, noted, "--add", f"acme.note={note}", env=acme)
    forged = run_xsave("verify", "-", input=forge(image))
    done = {
        0: run_xsave("verify", native_image),
        1: run_xsave("verify", tmp_path / "nothing"),
        2: run_xsave("verify"),
        3: run_xsave("verify", "-", input=image[:-100]),
        4: forged,
        5: run_xsave("run", small_image, dest, "--plugins", "pv"),
        6: run_xsave("run", noted, dest, "--to", "xl", env=acme),
        7: run_xsave("run", cut_between_checkpoints(tmp_path), "sim:?host=b"),
        8: run_xsave("preflight", "sim:pv?memory=64M", "sim:?host=small&host_memory=4M"),
        9: run_xsave("resolve", "--state", left_open(tmp_path / "journal")),
        75: run_xsave("verify", "-", input=b"Lacme", env=acme),
    }
    assert {code: process.returncode for code, process in done.items()} == {c: c for c in done}
    assert set(EXIT_CODES) - set(done) == {130}  # test_interruption.py
    assert b"the seal of the image (at offset " in forged.stderr
    assert not any(b"Traceback" in process.stderr for process in done.values())


def cut_between_checkpoints(folder: Path) -> Path:
    image = folder / "rounds.xsv"
    protect = xsave.Checkpoints(0.0, count=2)
    xsave.run("sim:pvh?memory=4M", image, checkpoint=protect, then="destroy")
    image.write_bytes(image.read_bytes()[:-3000])
    return image


def test_an_image_that_is_not_authentic_is_not_passed_on(
    run_xsave: Run, native_image: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "a.save"
    done = run_xsave("run", "-", dest, "--to", "xl", input=forge(native_image.read_bytes()))
    assert done.returncode == 4
    assert not dest.exists()


@pytest.mark.parametrize(
    "image",
    [b"", b"x", b"LibxlFmt", b"\xff" * 8 + b"XENF", bytes(5000), b"\x28\xb5\x2f\xfd nonsense"],
)
def test_bad_input_is_one_line_without_a_traceback(run_xsave: Run, image: bytes) -> None:
    done = run_xsave("verify", "-", "-vv", input=image, env={"XSAVE_DEBUG": "1"})
    assert done.returncode == 3
    assert done.stdout == b""
    assert done.stderr.startswith(b"xsave: error: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("options", "env", "traced"),
    [([], {}, False), (["-v"], {}, False), (["-vv"], {}, True), ([], {"XSAVE_DEBUG": "1"}, True),
     ([], {"XSAVE_DEBUG": "0"}, False)],
)  # fmt: skip
def test_a_bug_says_that_it_is_one(
    run_xsave: Run, acme: dict[str, str], options: list[str], env: dict[str, str], traced: bool
) -> None:
    done = run_xsave("verify", "-", *options, input=b"Bacme", env={**acme, **env})
    assert done.returncode == 1
    text = done.stderr.decode()
    assert "this is a bug in xsave or in a plugin: ZeroDivisionError: one by zero" in text
    assert ("Traceback" in text) is traced


def test_a_bug_as_json_is_an_error_object(
    run_xsave: Run, acme: dict[str, str], valid: Valid
) -> None:
    done = run_xsave("verify", "-", "--json", input=b"Bacme", env=acme)
    error = valid(done.stdout)["error"]
    assert (error["class"], error["exit_code"]) == ("ZeroDivisionError", 1)


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    return fail


ERRORS = [
    xsave.FormatError(what="header", offset=1, expected="a", got="b"),
    xsave.TruncatedError(what="header", offset=1, expected="a", got="b"),
    xsave.FieldError(field="count", expected="a", got="b"),
    xsave.AbsentPageError(pfn=1),
    xsave.RecordError(record="a.b", offset=1, reason="c"),
    xsave.DamageError(what="pfns", offset=1, expected="a", got="b"),
    xsave.DuplicateNameError(kind="codec", name="a", first="b", second="c"),
    xsave.MissingPluginError(record="a.b", plugin="a", reason="c"),
    xsave.UnknownNameError(kind="codec", name="a", known=["b"]),
    xsave.LossError(losses={"a.b": 2}),
    xsave.BrokenOffError(name="a", nr_checkpoints=1, reason="b"),
    xsave.PeerError(peer="tls:b", what="message", expected="a", got="b"),
    xsave.RefusedError(where="b", refusals=[xsave.Refusal("memory", "too little", "add some")]),
    xsave.UndecidedError(migration="5" * 32, reason="the link broke"),
    xsave.OtherEndError(where="tls:b", reason="it has no room"),
    *(
        kind("it says\nso")
        for kind in (
            xsave.XsaveError, xsave.UsageError, xsave.OutputError, xsave.SourceError,
            xsave.CancelledError, xsave.TryAgainError, xsave.StreamError,
            xsave.UnrecognisedError, xsave.AuthenticityError, xsave.PluginError,
            xsave.IdentityError, xsave.JournalError, xsave.LinkError, xsave.LinkLostError,
            xsave.LinkClosedError, xsave.SilentPeerError,
        )
    ),
]  # fmt: skip


def test_the_errors_tried_here_are_all_there_are() -> None:
    names = {name for name in xsave.__all__ if name.endswith("Error")}
    assert {type(error).__name__ for error in ERRORS} == names


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_of_the_library_becomes_its_exit_code_and_one_line(
    error: xsave.XsaveError,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    valid: Valid,
) -> None:
    monkeypatch.setattr("xsave.pipeline.verify.verify", failing(error))
    assert main(["verify", "a", "--json"]) == error.exit_code
    shown = capfd.readouterr()
    said = " ".join(str(error).split("\n"))
    assert shown.err == f"xsave: error: {said}\n"
    told = valid(shown.out)["error"]
    assert (told["class"], told["exit_code"]) == (type(error).__name__, error.exit_code)
    assert told["message"] == str(error)


def test_out_of_memory_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("xsave.pipeline.verify.verify", failing(MemoryError()))
    assert main(["verify", "a"]) == 1
    assert capfd.readouterr().err == "xsave: error: out of memory\n"


def test_what_an_image_says_in_an_error_is_not_obeyed_by_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    error = xsave.StreamError("name: expected a name, got \x1b[2J\x9b")
    monkeypatch.setattr("xsave.pipeline.verify.verify", failing(error))
    assert main(["verify", "a"]) == 3
    assert capfd.readouterr().err == ("xsave: error: name: expected a name, got \\x1b[2J\\x9b\n")


def test_the_error_is_told_when_even_its_json_cannot_be_written(
    run_xsave: Run, small_image: Path
) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run_xsave("verify", small_image, "--json", "--plugins", "nix",
                         stdout=full, stderr=subprocess.PIPE)  # fmt: skip
    assert done.returncode == 2
    assert b"no plugin is named 'nix'" in done.stderr
