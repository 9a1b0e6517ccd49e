"""The measurement of legacy images runs end to end on a tiny one. No times are judged here."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import xsave

HERE = Path(__file__).parent


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, str(HERE / program), *map(str, arguments))
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_the_image_that_is_measured_is_a_legacy_one(
    tmp_path: Path, manager: xsave.PluginManager
) -> None:
    big, old = tmp_path / "big.save", tmp_path / "big.legacy"
    assert run("make_image.py", "--no-measure", "--size", "4M", big).returncode == 0
    made = run("make_legacy.py", big, old)
    assert made.returncode == 0, made.stderr
    report = xsave.verify(old, manager=manager)
    assert (report.source.format, report.source.word_size) == ("legacy", 8)
    assert report.nr_pages == xsave.verify(big, manager=manager).nr_pages
    xsave.run(old, io.BytesIO(), to="libxl", manager=manager)


def test_ratios_come_out_or_the_reason_why_not(tmp_path: Path) -> None:
    done = run("legacy.py", "--dir", tmp_path, "--size", "4M", "--pairs", "1", "--json")
    if "not installed" in done.stderr:
        assert done.returncode == 1
        assert not list(Path("/usr/lib").glob("xen-*/bin/convert-legacy-stream"))
        return
    found = json.loads(done.stdout)
    assert set(found["figures"]) == {"convert-legacy-stream", "cat"}
    assert all(figure["value"] > 0 for figure in found["figures"].values())
    assert found["met"] == (done.returncode == 0)
    assert not {"ours.libxl", "theirs", "expected.libxl"} & {p.name for p in tmp_path.iterdir()}
