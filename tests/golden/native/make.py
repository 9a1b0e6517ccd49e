"""Make the golden images of the current version of the native format. Run once for each
version of the format; images of older versions are never made again.

    SOURCE_DATE_EPOCH=0 python tests/golden/native/make.py
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))

import xsave  # noqa: E402
from tests.plugins.xen_stream import build  # noqa: E402


def edited(seed: int, *edits: int) -> bytes:
    """The page of a seed with a byte changed for each edit."""
    page = bytearray(build.page(seed))
    for edit in edits:
        page[edit] ^= 0xFF
    return bytes(page)


def hvm_sent_again() -> bytes:
    """Pages that come three times, two of them a little changed each time."""
    records = build.hvm()
    at = next(i for i, rec in enumerate(records) if rec.number == build.TSC_INFO)
    again = [
        build.page_data([(0, 0), (0, 3)], [edited(1, *range(0, 90 * n, 30)), edited(1, 7 * n)])
        for n in (1, 2, 3)
    ]
    return build.xl(build.libxl(build.libxc([*records[:at], *again, *records[at:]])))


def pv_later() -> bytes:
    """The PV guest with one page a little changed, one altogether, and one gone."""
    records = build.pv()
    at = next(i for i, rec in enumerate(records) if rec.number == build.TSC_INFO)
    later = build.page_data(
        [(0, 1), (0, 4), (build.XTAB, 6)], [edited(2, 100, 2000), build.page(9)]
    )
    return build.xl(build.libxl(build.libxc([*records[:at], later, *records[at:]])))


UNKNOWN = build.Rec(build.UNKNOWN_OPTIONAL, b"nobody knows", padding=b"\1\2\3\4")
SOURCES = {
    "hvm": lambda: build.xl(build.libxl(build.libxc([*build.hvm(), UNKNOWN]))),
    "pv": lambda: build.xl(build.libxl(build.libxc(build.pv()))),
}
BASES = json.loads((HERE / "bases.json").read_text())
OPTIONS = {
    "none": {},
    "zstd": {"codec": "zstd:1"},
    "brotli": {"codec": "brotli:1"},
    "lz4": {"codec": "lz4"},
    "sha256": {"checksum": "sha256"},
}


def make_version_1() -> None:
    said = {}
    for guest, make in SOURCES.items():
        source = make()
        for name, options in OPTIONS.items():
            image = HERE / f"v1.0-{guest}-{name}.xsv"
            xsave.run(io.BytesIO(source), image, **options)
            image.chmod(0o644)
            said[image.name] = hashlib.sha256(source).hexdigest()
    (HERE / "v1.0.json").write_text(json.dumps(said, indent=2) + "\n")


def make_version_2() -> None:
    """With differences: from earlier in the stream, and from an image of version 1."""
    said = {}
    for name, source, options in (
        ("hvm-deltas", hvm_sent_again(), {"deltas": True}),
        ("pv-since", pv_later(), {"base": HERE / BASES["v2.0-pv-since.xsv"]}),
    ):
        image = HERE / f"v2.0-{name}.xsv"
        xsave.run(io.BytesIO(source), image, codec="zstd:1", **options)
        image.chmod(0o644)
        said[image.name] = hashlib.sha256(source).hexdigest()
    (HERE / "v2.0.json").write_text(json.dumps(said, indent=2) + "\n")


if __name__ == "__main__":
    make_version_2()
