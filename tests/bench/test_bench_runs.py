"""The harness runs end to end on a tiny image and reports ratios. No times are judged here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RUN = Path(__file__).with_name("run.py")
LoadBench = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def bench(load_bench: LoadBench) -> ModuleType:
    return load_bench("run")


@pytest.fixture(scope="module")
def report(
    bench: ModuleType, small_image: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """All targets once, on 4 MiB."""
    folder = tmp_path_factory.mktemp("bench")
    argv = (
        sys.executable, str(RUN), "--dir", str(folder), "--size", "4M", "--pairs", "1",
        "--hvm", str(small_image), "--json", "--quiet",
    )  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    found["left"] = {path.name for path in folder.iterdir()}
    return found


def missing_peer(reason: str) -> bool:
    """Whether the reason is that a peer is not on this machine, which it then is not."""
    found = re.search(r"(?:^|: )(\S+) is not installed", reason)
    if found is None:
        return False
    if found[1] == "verify-stream-v2":
        return not list(Path("/usr/lib").glob("xen-*/bin/verify-stream-v2"))
    return shutil.which(found[1]) is None


def test_every_target_is_reported_with_a_ratio_on_a_tiny_image(report: dict[str, Any]) -> None:
    assert {line["number"] for line in report["lines"]} == {*range(1, 17), 21, 22, 23}
    for line in report["lines"]:
        if line["verdict"] == "not measured":
            assert missing_peer(line["reason"]), line["reason"]
        else:
            # a limit of nothing, and a break after which nothing was missing, may give nothing
            small = line["limit"] > 0 and line["number"] != 23
            assert line["figure"]["value"] >= small * 1e-9


def test_a_quick_look_never_says_met(report: dict[str, Any]) -> None:
    assert {line["verdict"] for line in report["lines"]} <= {"within", "beyond", "not measured"}


def test_outputs_are_removed_and_inputs_kept(report: dict[str, Any]) -> None:
    assert "mixed-4096K.save" in report["left"]
    assert not [name for name in report["left"] if name.startswith(("ours", "theirs", "part"))]


def shell(bench: ModuleType, text: str, out: Path | None = None) -> Any:
    return bench.Command(("/bin/sh", "-c", text), out, to_stdout=out is not None)


def test_usage_is_that_of_the_command_and_all_it_started(bench: ModuleType, tmp_path: Path) -> None:
    busy = "x=0; while [ $x -lt 60000 ]; do x=$((x + 1)); done; echo done"
    usage = bench.run_command(shell(bench, f"({busy})", tmp_path / "out"), tmp_path / "log")
    assert usage.cpu_s > 0.005
    assert usage.wall_s > 0
    assert usage.peak_bytes > 1 << 18
    assert usage.out_bytes == len("done\n")


def test_failed_command_gives_its_last_line_as_the_reason(
    bench: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(bench.NotMeasuredError, match=r"ended with 3: no luck$"):
        bench.run_command(
            shell(bench, "echo first >&2; echo no luck >&2; exit 3"), tmp_path / "log"
        )


def make_bench(bench: ModuleType, folder: Path, **changed: Any) -> Any:
    settings = {
        "folder": folder,
        "size_bytes": 4 << 30,
        "nr_pairs": 5,
        "xsave": folder / "absent",
        "verify_stream": None,
        "hvm": None,
        **changed,
    }
    return bench.Bench(**settings)


@pytest.mark.parametrize(
    ("value", "settings", "verdict"),
    [
        (0.5, {}, "met"),
        (0.7, {}, "not met"),
        (0.5, {"nr_pairs": 4}, "within"),
        (0.7, {"nr_pairs": 4}, "beyond"),
        (0.5, {"size_bytes": 1 << 30}, "within"),
    ],
)
def test_met_is_said_only_of_enough_pairs_at_full_size(
    bench: ModuleType, tmp_path: Path, value: float, settings: dict[str, int], verdict: str
) -> None:
    figure = bench.Figure(unit="s", ours=value, theirs=1.0, value=value)
    target = bench.Target(1, "something", 0.6, lambda _bench: figure)
    assert bench.judge(target, make_bench(bench, tmp_path, **settings)).verdict == verdict


def test_what_cannot_be_run_is_not_measured(bench: ModuleType, tmp_path: Path) -> None:
    lines = [
        bench.judge(target, make_bench(bench, tmp_path))
        for target in bench.TARGETS
        if target.number in (2, 10) and not target.big
    ]
    assert [line.verdict for line in lines] == ["not measured", "not measured"]
    assert "met" not in bench.table(lines).replace("not measured", "")


def test_figure_is_the_median_of_ratios_and_not_a_ratio_of_medians(bench: ModuleType) -> None:
    ours = [bench.Usage(cpu_s, 1.0, 1 << 20) for cpu_s in (1.0, 2.0, 9.0)]
    theirs = [bench.Usage(cpu_s, 1.0, 1 << 20) for cpu_s in (1.0, 4.0, 3.0)]
    figure = bench.Measured(ours, theirs).cpu()
    assert figure.value == 1.0
    assert figure.spread == (0.5, 3.0)
    assert (figure.ours, figure.theirs) == (2.0, 3.0)


def test_pairs_alternate_which_side_goes_first(bench: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "order"
    pair = bench.Pair(shell(bench, f"echo o >>{log}"), shell(bench, f"echo t >>{log}"))
    make_bench(bench, tmp_path, nr_pairs=4)._run("order", pair)
    assert log.read_text().split() == ["o", "t", "t", "o", "o", "t", "t", "o"]


def test_output_that_differs_is_not_measured_and_not_left(
    bench: ModuleType, tmp_path: Path
) -> None:
    wanted, out = tmp_path / "wanted", tmp_path / "out"
    wanted.write_text("right\n")
    pair = bench.Pair(shell(bench, "echo wrong", out), shell(bench, ":"), same_as=wanted)
    with pytest.raises(bench.NotMeasuredError, match="differs from wanted"):
        make_bench(bench, tmp_path)._run("differs", pair)
    assert not out.exists()


def test_unknown_target_number_is_refused() -> None:
    argv = (sys.executable, str(RUN), "--dir", os.devnull, "--only", "1,77")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no target 77" in done.stderr
