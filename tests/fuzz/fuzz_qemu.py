"""Fuzz target: QEMU's migration streams and records. Coverage-guided, with atheris.

    python tests/fuzz/fuzz_qemu.py -runs=20000 FOLDER tests/fuzz/corpus/qemu

New inputs are kept in the first folder, which must exist.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # no types

    sys.path.insert(0, str(Path(__file__).parents[2]))
    with atheris.instrument_imports():
        from tests.fuzz.targets import prepare

        target = prepare("qemu")
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
