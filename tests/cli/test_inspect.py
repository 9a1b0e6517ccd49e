from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import xsave

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Valid = Callable[[bytes | str], dict[str, Any]]
ABSENT = 0xFE000  # XTAB in the small image
BEYOND = 5_000_000


@pytest.fixture(scope="module")
def tree(run_xsave: Run, small_image: Path) -> str:
    done = run_xsave("inspect", small_image)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return done.stdout.decode()


def test_text_is_indented_and_without_escapes(tree: str) -> None:
    assert "\x1b" not in tree
    assert "├" not in tree
    lines = tree.splitlines()
    assert lines[0].endswith("hvmbios.save  xl image of an x86_hvm guest, Xen 4.17, 24.0 MiB")
    assert (
        "  xen.hvm.page_data  4092 pages, 1044480 entries of pfns 0x0-0xfefff in 1020 batches"
        in (tree)
    )
    assert "    NOTAB  4092" in lines
    assert "    mode  native (2)" in lines


def test_long_fields_are_shortened_in_the_tree_and_whole_in_the_record(
    run_xsave: Run, small_image: Path, tree: str
) -> None:
    assert "…" in tree
    done = run_xsave("inspect", small_image, "--record", "xen.qemu.context")
    assert done.returncode == 0
    assert "…" not in done.stdout.decode()


def test_json_has_every_record_with_its_fields(
    run_xsave: Run, small_image: Path, valid: Valid
) -> None:
    found = valid(run_xsave("inspect", small_image, "--json").stdout)
    items = {item["name"]: item for item in found["items"]}
    assert items["xen.x86.tsc_info"]["fields"]["mode"] == {"value": 2, "name": "native"}
    assert items["xen.hvm.page_data"]["kind"] == "memory"
    assert items["xen.hvm.page_data"]["types"] == {"NOTAB": 4092, "XTAB": 1040388}
    assert found["page_statistics"] is None
    assert found["source"]["xen_version"] == "4.17"


def test_page_statistics_are_shown_and_told(
    run_xsave: Run, native_image: Path, valid: Valid
) -> None:
    found = valid(run_xsave("inspect", native_image, "--pages", "--json").stdout)
    assert found["page_statistics"] == {
        "nr_pages": 4092, "nr_zero": 3932, "nr_duplicate": 16, "estimated": False,
    }  # fmt: skip
    text = run_xsave("inspect", native_image, "--pages").stdout.decode()
    assert "  pages with contents  4092, counted\n    zero  3932 (96.1 %)\n" in text


def test_one_record_as_text_json_hex_and_bytes(
    run_xsave: Run, small_image: Path, valid: Valid
) -> None:
    body = bytes(xsave.read_record(small_image, "xen.x86.msr_policy").record.body)
    wanted = ("inspect", small_image, "--record", "xen.x86.msr_policy")
    assert run_xsave(*wanted, "--raw").stdout == body
    found = valid(run_xsave(*wanted, "--json").stdout)
    assert found["size_bytes"] == len(body)
    assert found["fields"]["entries"][0]["index"] == {"value": 206, "name": "PLATFORM_INFO"}
    lines = run_xsave(*wanted, "--hex").stdout.decode().splitlines()
    assert [bytes.fromhex(line[10:58]) for line in lines] == [body[:16], body[16:]]
    text = run_xsave(*wanted).stdout.decode()
    assert text.startswith("xen.x86.msr_policy  32 bytes at 0xab3, of plugin x86\n")
    assert "index=PLATFORM_INFO (206)" in text


def test_a_record_that_is_not_there_lists_those_that_are(run_xsave: Run, small_image: Path) -> None:
    for wanted in ("xen.hvm.params#1", "xen.nix"):
        done = run_xsave("inspect", small_image, "--record", wanted)
        assert done.returncode == 2
        assert b"it has: " in done.stderr
        assert b"xen.hvm.params (1)" in done.stderr


def test_a_record_nobody_understands_is_shown_in_hexadecimal(
    run_xsave: Run, small_image: Path, tmp_path: Path, acme: dict[str, str]
) -> None:
    note, noted = tmp_path / "note", tmp_path / "noted.xsv"
    note.write_bytes(b"\x1b[31m red")
    run_xsave("run", small_image, noted, "--add", f"acme.note={note}", env=acme)
    text = run_xsave("inspect", noted).stdout.decode()
    assert "optional, not understood here, of plugin acme" in text
    assert note.read_bytes().hex() in text


def test_what_a_terminal_would_obey_is_spelt_out(
    run_xsave: Run, small_image: Path, tmp_path: Path, acme: dict[str, str]
) -> None:
    note, noted = tmp_path / "note", tmp_path / "noted.xsv"
    note.write_bytes("\x1b]0;owned\x07 \u202e".encode())
    run_xsave("run", small_image, noted, "--add", f"acme.note={note}", env=acme)
    done = run_xsave("inspect", noted, "--record", "acme.note", env=acme)
    assert b"\x1b" not in done.stdout
    assert b"\x07" not in done.stdout
    assert b"\\x1b]0;owned\\x07 \\u202e" in done.stdout


@pytest.mark.parametrize("form", ["0xff-0x101", "255+3", "0xFF-257"])
def test_pfns_can_be_given_in_every_form(
    run_xsave: Run, native_image: Path, small_image: Path, form: str, valid: Valid
) -> None:
    expected = xsave.read_pfns(small_image, range(255, 258))
    pages = valid(run_xsave("inspect", native_image, "--pfn", form, "--json").stdout)["pages"]
    assert [page["pfn"] for page in pages] == [255, 256, 257]
    for page in pages:
        contents = expected[page["pfn"]][1]
        assert contents is not None
        assert bytes.fromhex(page["hex"]) == contents.tobytes()


def test_pages_as_bytes_and_as_a_hexdump(
    run_xsave: Run, native_image: Path, small_image: Path
) -> None:
    contents = xsave.read_pfns(small_image, [0x100])[0x100][1]
    assert contents is not None
    done = run_xsave("inspect", native_image, "--pfn", "0x100", "--raw")
    assert done.stdout == contents.tobytes()
    text = run_xsave("inspect", small_image, "--pfn", "0x100").stdout.decode()
    first, second, *_ = text.splitlines()
    assert first == "pfn 0x100  NOTAB"
    assert second.startswith("00100000  " + contents.tobytes()[:8].hex(" "))


def test_an_absent_page_shows_its_type(run_xsave: Run, native_image: Path, valid: Valid) -> None:
    done = run_xsave("inspect", native_image, "--pfn", str(ABSENT))
    assert done.returncode == 0
    assert done.stdout == b"pfn 0xfe000  XTAB, without contents\n"
    done = run_xsave("inspect", native_image, "--pfn", str(ABSENT), "--json")
    assert valid(done.stdout)["pages"] == [{"pfn": ABSENT, "type": "XTAB", "hex": None}]
    done = run_xsave("inspect", native_image, "--pfn", str(ABSENT), "--raw")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"no contents were saved of pfn 0xfe000" in done.stderr


@pytest.mark.parametrize("option", ["--json", "--raw", "-q"])
def test_a_pfn_that_is_not_there_fails(
    run_xsave: Run, small_image: Path, option: str, valid: Valid
) -> None:
    done = run_xsave("inspect", small_image, "--pfn", f"{BEYOND}+2", option)
    assert done.returncode == 1
    assert b"the image does not mention pfns 0x4c4b40-0x4c4b41" in done.stderr
    if option == "--json":
        assert [page["type"] for page in valid(done.stdout)["pages"]] == [None, None]
    elif option == "--raw":
        assert done.stdout == b""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--pfn", "9-3"], ["--pfn", "1+0"], ["--pfn", "x"], ["--pfn", "-1"], ["--pfn", "0x"],
        ["--pfn", "0-0xffffffff"], ["--pfn", "0+0x10000000000000"], ["--pfn", "1", "--pages"],
        ["--pfn", "1", "--record", "a.b"], ["--record", "a.b#x"], ["--record", "#1"],
        ["--raw"], ["--hex"], ["--pfn", "1", "--hex"], ["--record", "a.b", "--hex", "--json"],
        ["--record", "a.b", "--raw", "--json"], ["--pfn", "1", "--plugins", "hvm"],
    ],
)  # fmt: skip
def test_nonsense_is_a_usage_error(
    run_xsave: Run, native_image: Path, arguments: list[str]
) -> None:
    done = run_xsave("inspect", native_image, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(b"xsave: error: ")


def test_standard_input_is_inspected(run_xsave: Run, native_image: Path) -> None:
    done = run_xsave("inspect", "-", input=native_image.read_bytes())
    assert done.returncode == 0
    assert done.stdout.startswith(b"standard input  native image of an x86_hvm guest")
