from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

import xsave

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Valid = Callable[[bytes | str], dict[str, Any]]


def test_it_says_what_was_looked_at(run_xsave: Run, small_image: Path) -> None:
    done = run_xsave("verify", small_image)
    assert done.returncode == 0
    assert done.stderr == b""
    text = done.stdout.decode()
    assert text.startswith("xl image of an x86_hvm guest, Xen 4.17\n")
    assert "xen.hvm.page_data (1020)" in text
    assert f"xxh3-128 {xxhash.xxh3_128_hexdigest(small_image.read_bytes())}" in text
    assert text.endswith("\nwhole and right\n")


def test_fast_says_what_it_did_not_look_at(
    run_xsave: Run, native_image: Path, valid: Valid
) -> None:
    text = run_xsave("verify", native_image, "--fast").stdout.decode()
    assert text.endswith(
        "whole and right, as far as --fast looks: page contents were passed over\n"
    )
    found = valid(run_xsave("verify", native_image, "--fast", "--json").stdout)
    assert found["fast"] is True
    assert found["digest"] is None


def test_the_result_as_json(run_xsave: Run, native_image: Path, valid: Valid) -> None:
    done = run_xsave("verify", "-", "--json", input=native_image.read_bytes())
    found = valid(done.stdout)
    digest = xxhash.xxh3_128_hexdigest(native_image.read_bytes())
    assert found["ok"] is True
    assert found["digest"] == {"algorithm": "xxh3-128", "value": digest}
    assert found["source"]["format"] == "native"


def test_damage_is_one_line_with_its_place(
    run_xsave: Run, native_image: Path, tmp_path: Path, valid: Valid
) -> None:
    image = bytearray(native_image.read_bytes())
    image[len(image) // 2] ^= 1
    damaged = tmp_path / "damaged.xsv"
    damaged.write_bytes(image)
    done = run_xsave("verify", damaged)
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.startswith(b"xsave: error: ")
    assert done.stderr.count(b"\n") == 1
    assert b" at offset 0x" in done.stderr
    done = run_xsave("verify", damaged, "--json")
    error = valid(done.stdout)["error"]
    assert error["exit_code"] == done.returncode == 3
    assert 0 < error["offset"] < len(image)


def test_a_mandatory_record_whose_plugin_is_not_there_is_named(
    run_xsave: Run, small_image: Path, tmp_path: Path, acme: dict[str, str], valid: Valid
) -> None:
    body, sealed = tmp_path / "body", tmp_path / "sealed.xsv"
    body.write_bytes(b"x")
    assert (
        run_xsave("run", small_image, sealed, "--add", f"acme.seal={body}", env=acme).returncode
        == 0
    )
    assert run_xsave("verify", sealed, env=acme).returncode == 0
    done = run_xsave("verify", sealed, "--json")
    assert done.returncode == 5
    error = valid(done.stdout)["error"]
    assert (error["class"], error["record"], error["plugin"]) == (
        "MissingPluginError", "acme.seal", "acme",
    )  # fmt: skip
    assert b"acme.seal is mandatory: it belongs to plugin acme, which is not installed" in (
        done.stderr
    )
    chosen = run_xsave("verify", sealed, "--plugins", "hvm", env=acme)
    assert chosen.returncode == 5
    assert b"which is not among those chosen" in chosen.stderr


def test_a_report_of_what_is_not_understood_names_the_record(native_image: Path) -> None:
    report = xsave.verify(native_image, plugins=["pv"])
    assert "xen.hvm.params" in report.not_understood
    assert report.records["xen.hvm.params"].version == 1
