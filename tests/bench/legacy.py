"""Measure the conversion of a legacy image against Xen's own converter.

    python tests/bench/legacy.py --dir /var/tmp/bench --size 4G

Made and measured as ``run.py`` does it: processor time of whole commands, in pairs that
take turns, the median of the ratios; and what both wrote is compared once. Beside it the same
image through ``cat``: what a program cannot go below that writes each byte it read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import run  # noqa: E402  # the program beside this one

LIMIT = 0.35
MAKE_LEGACY = HERE / "make_legacy.py"


def converter() -> Path:
    """:raises NotMeasuredError: it is not on this machine."""
    found = sorted(Path("/usr/lib").glob("xen-*/bin/convert-legacy-stream"))
    if not found:
        raise run.NotMeasuredError("convert-legacy-stream is not installed (Debian: xen-utils)")
    return found[-1]


def legacy_image(bench: run.Bench) -> Path:
    big = bench.image("mixed")
    path = big.with_suffix(".legacy")
    return bench._make(path, run.Command((sys.executable, str(MAKE_LEGACY), str(big), str(path))))


def pairs(bench: run.Bench) -> dict[str, run.Pair]:
    """Ours against the converter, and against a bare copy."""
    image, program, out = legacy_image(bench), converter(), bench.folder / "theirs"
    ours = bench.run(image, ".libxl", "--to", "libxl")
    argv = (
        str(program), "--in", str(image), "--out", str(out), "--width", "64",
        "--guest-type", "hvm", "--format", "libxl",
    )  # fmt: skip
    modules = program.parent.parent / "lib" / "python"
    theirs = run.Command(argv, out, env=(("PYTHONPATH", str(modules)),))
    run.run_command(theirs, bench.folder / "stderr")
    expected = bench.folder / "expected.libxl"
    out.rename(expected)
    return {
        "convert-legacy-stream": run.Pair(ours, theirs, (image,), same_as=expected),
        "cat": run.Pair(ours, bench.theirs("cat", image), (image,)),
    }


def measure(bench: run.Bench) -> dict[str, run.Figure]:
    """By peer."""
    try:
        return {name: bench._run(name, pair).cpu() for name, pair in pairs(bench).items()}
    finally:
        (bench.folder / "expected.libxl").unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--size", type=run.parse_size, default=run.BIG_BYTES)
    parser.add_argument("--pairs", type=int, default=run.MIN_PAIRS)
    parser.add_argument("--xsave", type=Path, default=Path(sys.executable).with_name("xsave"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    # as in run.py: Python's modules are compiled once, as those of installed programs are
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(options.dir.resolve() / "pycache")
    bench = run.Bench(options.dir, options.size, options.pairs, options.xsave, None, None)
    try:
        figures = measure(bench)
    except run.NotMeasuredError as error:
        sys.stderr.write(f"not measured: {error}\n")
        return 1
    met = figures["convert-legacy-stream"].value <= LIMIT
    if options.json:
        shown = {name: run.asdict(figure) for name, figure in figures.items()}
        sys.stdout.write(json.dumps({"limit": LIMIT, "met": met, "figures": shown}) + "\n")
    else:
        for name, figure in figures.items():
            sys.stdout.write(
                f"to {name:22} {figure.value:5.2f}  ours {figure.ours:.2f} s, theirs "
                f"{figure.theirs:.2f} s of processor time, {figure.nr_pairs} pairs\n"
            )
        sys.stdout.write(f"limit {LIMIT}: {'met' if met else 'not met'}\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
