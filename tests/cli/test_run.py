from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Enter = Callable[..., dict[str, str]]
Valid = Callable[[bytes | str], dict[str, Any]]
DATA = Path(__file__).parents[1] / "data"


def test_there_and_back_through_pipes_is_identical(
    run_xsave: Run, small_image: Path, valid: Valid
) -> None:
    there = run_xsave("run", "-", "-", "--codec", "lz4", input=small_image.read_bytes())
    assert there.returncode == 0, there.stderr
    back = run_xsave("run", "-", "-", "--to", "xl", "--json", input=there.stdout)
    assert back.returncode == 0
    assert back.stdout == small_image.read_bytes()
    report = valid(back.stderr)  # standard output carries the image
    assert report["source"]["format"] == "native"
    assert report["dest"] == {"format": "xl", "size_bytes": len(back.stdout)}


def test_a_compressed_file_is_read_as_it_is(
    run_xsave: Run, small_image: Path, tmp_path: Path, valid: Valid
) -> None:
    back = tmp_path / "back.save"
    done = run_xsave("run", DATA / "hvmbios.save.zst", back, "--to", "xl", "--json")
    assert done.returncode == 0
    assert back.read_bytes() == small_image.read_bytes()
    assert valid(done.stdout)["source"]["size_bytes"] == small_image.stat().st_size
    assert done.stderr == b""


def test_the_report_in_text_goes_to_standard_error(
    run_xsave: Run, small_image: Path, tmp_path: Path
) -> None:
    done = run_xsave("run", small_image, tmp_path / "a.xsv", "--codec", "zstd:1")
    assert done.returncode == 0
    assert done.stdout == b""
    text = done.stderr.decode()
    for part in ("xl image of an x86_hvm guest, Xen 4.17 -> native, codec zstd:1",
                 "xen.hvm.params", "xen.hvm.page_data (1020)", "4092 with contents",
                 "24.0 MiB ->"):  # fmt: skip
        assert part in text


def test_the_report_as_json_has_what_the_report_has(
    run_xsave: Run, small_image: Path, tmp_path: Path, valid: Valid
) -> None:
    dest = tmp_path / "a.xsv"
    done = run_xsave("run", small_image, dest, "--json", "--codec", "none")
    report = valid(done.stdout)
    assert report["dest"] == {"format": "native", "size_bytes": dest.stat().st_size}
    assert report["codec"] == "none"
    assert report["plugins"] == ["hvm", "qemu", "x86", "xen"]
    assert report["nr_pages"] == 4092
    counts = {count["name"]: count["count"] for count in report["records"]}
    assert counts["xen.hvm.page_data"] == 1020
    assert report["left_out"] == {}
    assert report["carried"] == []


def test_quiet_says_nothing_when_all_is_well(
    run_xsave: Run, small_image: Path, tmp_path: Path
) -> None:
    done = run_xsave("run", "-q", small_image, tmp_path / "a.xsv")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_verbose_shows_the_log(run_xsave: Run, small_image: Path, tmp_path: Path) -> None:
    done = run_xsave("run", "-v", small_image, tmp_path / "a.xsv")
    assert b"xsave: info: xl -> native" in done.stderr


def test_plugins_restrict_and_bring_what_they_need(
    run_xsave: Run, small_image: Path, tmp_path: Path, valid: Valid
) -> None:
    done = run_xsave("run", small_image, tmp_path / "a.xsv", "--plugins", "hvm", "--json")
    assert done.returncode == 0
    assert valid(done.stdout)["plugins"] == ["hvm", "qemu", "x86", "xen"]


def test_plugins_come_from_the_environment_where_not_given(
    run_xsave: Run, small_image: Path, tmp_path: Path
) -> None:
    env = {"XSAVE_PLUGINS": "pv, x86"}
    done = run_xsave("run", small_image, tmp_path / "a.xsv", env=env)
    assert done.returncode == 5
    assert b"it belongs to plugin hvm, which is not among those chosen" in done.stderr
    done = run_xsave("run", small_image, tmp_path / "a.xsv", "--plugins", "hvm", env=env)
    assert done.returncode == 0


def test_an_unknown_plugin_lists_the_known_ones(
    run_xsave: Run, small_image: Path, tmp_path: Path
) -> None:
    done = run_xsave("run", small_image, tmp_path / "a.xsv", "--plugins", "hvm,nix")
    assert done.returncode == 2
    assert b"no plugin is named 'nix'; known: " in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_added_record_is_reported_carried_and_left_out(
    run_xsave: Run, small_image: Path, tmp_path: Path, acme: dict[str, str], valid: Valid
) -> None:
    (tmp_path / "note.txt").write_text("be careful")
    noted, back = tmp_path / "noted.xsv", tmp_path / "back.save"
    addition = f"acme.note={tmp_path / 'note.txt'}"
    done = run_xsave("run", small_image, noted, "--add", addition, "--json", env=acme)
    assert done.returncode == 0, done.stderr
    assert valid(done.stdout)["added"] == ["acme.note"]

    carried = run_xsave("run", noted, tmp_path / "carried.xsv", "--json")  # without the plugin
    assert carried.returncode == 0
    assert valid(carried.stdout)["carried"] == ["acme.note"]

    left = run_xsave("run", noted, back, "--to", "xl", "--json", env=acme)
    assert left.returncode == 6
    report = valid(left.stdout)
    assert report["partial"]
    assert report["left_out"] == {"acme.note": 1}
    assert back.read_bytes() == small_image.read_bytes()
    for option in ("-q", "-v"):
        told = run_xsave("run", noted, back, "--to", "xl", option)
        assert told.returncode == 6
        assert b"left out  acme.note, 1 of them: xl has no place for it" in told.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--add", "acme.note"], "is not NAME=FILE"),
        (["--add", "acme.note=a", "--add", "acme.note=b"], "is given twice"),
        (["--plugins", "hvm,,pv"], "is not a list of names"),
        (["--plugins", ""], "is not a list of names"),
        (["--workers", "0"], "0 is not in the range"),
        (["--codec", "zip"], "no codec is named 'zip'; known: "),
        (["--codec", "zstd:99"], "not within 1 to 19"),
        (["--to", "vhs"], "no format is named 'vhs'; known: "),
        (["--checksum", "sum"], "no checksum is named 'sum'; known: "),
        (["-q", "-v"], "contradict"),
        (["--option", "tmem.ephemeral"], "'tmem.ephemeral' is not PLUGIN.NAME=VALUE"),
        (["--option", "a.b=c", "--option", "a.b=d"], "a.b is given twice"),
        (["--option", "tmem.speed=9"], "no option of plugin tmem is named 'speed'; known: eph"),
        (["--option", "tmem.pages=9"], "option tmem.pages: expected held or plain, got '9'"),
        (["--option", "tmem.pages=held"], "is about a domain as source, and here it is an image"),
    ],
)
def test_nonsense_is_a_usage_error_and_writes_nothing(
    run_xsave: Run, small_image: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = run_xsave("run", small_image, tmp_path / "a.xsv", *arguments)
    assert done.returncode == 2
    assert message in done.stderr.decode()
    assert done.stderr.startswith(b"xsave: error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["run", "convert", "verify", "inspect"])
@pytest.mark.parametrize("address", ["acme:guest7", "kvm:a/b"])
def test_a_domain_without_its_backend_is_a_usage_error(
    run_xsave: Run, tmp_path: Path, command: str, address: str
) -> None:
    dest = [tmp_path / "a.xsv"] if command in {"run", "convert"} else []
    done = run_xsave(command, address, *dest)
    assert done.returncode == 2
    scheme = address.partition(":")[0]
    assert f"no domain backend is named '{scheme}'; known: sim" in done.stderr.decode()


BACKEND = """
from xsave import Backend, PluginInfo, hookimpl

PLUGIN = PluginInfo(name="toy", summary="a backend", contract=(1, 1))

class Toy(Backend):
    name = "toy"
    def open(self, address): raise AssertionError
    def create(self, address, info): raise AssertionError

@hookimpl
def xsave_register_backends(register):
    register(Toy())
"""


def test_a_domain_is_no_image_and_known_backends_are_listed(
    run_xsave: Run, small_image: Path, tmp_path: Path, enter_plugin: Enter
) -> None:
    env = enter_plugin(tmp_path, "toy", BACKEND)
    done = run_xsave("convert", small_image, "toy:7", env=env)
    assert done.returncode == 2
    assert b"toy:7 is a domain of backend toy" in done.stderr
    done = run_xsave("convert", small_image, "acme:7", env=env)
    assert b"no domain backend is named 'acme'; known: sim, toy, xen" in done.stderr


def test_a_file_with_a_colon_in_its_name_can_be_named(
    run_xsave: Run, small_image: Path, tmp_path: Path
) -> None:
    assert run_xsave("run", small_image, "./vm:7.xsv", cwd=tmp_path).returncode == 0
    assert run_xsave("verify", "--fast", "vm:7.xsv", cwd=tmp_path).returncode == 0  # it exists


def test_convert_is_the_same_pipeline(
    run_xsave: Run, native_image: Path, small_image: Path, tmp_path: Path, valid: Valid
) -> None:
    back = tmp_path / "back.save"
    done = run_xsave("convert", native_image, back, "--to", "xl", "--json")
    assert done.returncode == 0
    assert valid(done.stdout)["schema"] == "xsave/run/1"
    assert back.read_bytes() == small_image.read_bytes()


def test_an_error_as_json_is_one_object(
    run_xsave: Run, small_image: Path, tmp_path: Path, valid: Valid
) -> None:
    done = run_xsave("run", small_image, tmp_path / "a.xsv", "--plugins", "pv", "--json")
    error = valid(done.stdout)["error"]
    assert error["class"] == "MissingPluginError"
    assert error["exit_code"] == done.returncode == 5
    assert (error["record"], error["plugin"]) == ("xen.hvm.page_data", "hvm")
    assert done.stderr.count(b"\n") == 1

    done = run_xsave("run", small_image, "-", "--plugins", "pv", "--json")
    assert valid(done.stderr)["error"]["class"] == "MissingPluginError"
    assert done.returncode == 5

    done = run_xsave("run", "--json", small_image)  # click's own errors too
    assert valid(done.stdout)["error"]["exit_code"] == done.returncode == 2


def test_an_older_destination_stays_when_the_source_is_wrong(
    run_xsave: Run, native_image: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "a.xsv"
    dest.write_text("older")
    image = native_image.read_bytes()
    done = run_xsave("run", "-", dest, input=image[: len(image) // 2])
    assert done.returncode == 3
    assert dest.read_text() == "older"
    assert list(tmp_path.iterdir()) == [dest]


def test_json_is_one_line_that_any_parser_takes(
    run_xsave: Run, small_image: Path, tmp_path: Path
) -> None:
    done = run_xsave("run", small_image, tmp_path / "a.xsv", "--json")
    assert done.stdout.count(b"\n") == 1
    assert json.loads(done.stdout.decode("ascii"))["ok"] is True
