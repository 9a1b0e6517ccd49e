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

UNKNOWN = build.Rec(build.UNKNOWN_OPTIONAL, b"nobody knows", padding=b"\1\2\3\4")
SOURCES = {
    "hvm": lambda: build.xl(build.libxl(build.libxc([*build.hvm(), UNKNOWN]))),
    "pv": lambda: build.xl(build.libxl(build.libxc(build.pv()))),
}
OPTIONS = {
    "none": {},
    "zstd": {"codec": "zstd:1"},
    "brotli": {"codec": "brotli:1"},
    "lz4": {"codec": "lz4"},
    "sha256": {"checksum": "sha256"},
}


def main() -> None:
    said = {}
    for guest, make in SOURCES.items():
        source = make()
        for name, options in OPTIONS.items():
            image = HERE / f"v1.0-{guest}-{name}.xsv"
            xsave.run(io.BytesIO(source), image, **options)
            image.chmod(0o644)
            said[image.name] = hashlib.sha256(source).hexdigest()
    (HERE / "v1.0.json").write_text(json.dumps(said, indent=2) + "\n")


if __name__ == "__main__":
    main()
