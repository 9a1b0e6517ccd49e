"""Images of every released version of the format stay readable."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest

import xsave
from tests.plugins.native.test_writer import batches

GOLDEN = Path(__file__).parents[2] / "golden" / "native"
SOURCES: dict[str, str] = {
    name: digest
    for said in sorted(GOLDEN.glob("v*.json"))
    for name, digest in json.loads(said.read_text()).items()
}

BASES: dict[str, str] = json.loads((GOLDEN / "bases.json").read_text())


def base_of(name: str) -> Path | None:
    return GOLDEN / BASES[name] if name in BASES else None


def test_every_golden_image_has_its_origin_written_down() -> None:
    assert {path.name for path in GOLDEN.glob("*.xsv")} == set(SOURCES)
    assert len(SOURCES) >= 10


@pytest.mark.parametrize("name", SOURCES)
def test_a_golden_image_gives_back_the_bytes_it_was_made_from(
    name: str, manager: xsave.PluginManager
) -> None:
    out = io.BytesIO()
    xsave.run(GOLDEN / name, out, to="xl", base=base_of(name), manager=manager)
    assert hashlib.sha256(out.getvalue()).hexdigest() == SOURCES[name]


@pytest.mark.parametrize("name", SOURCES)
def test_a_golden_image_is_whole(name: str, manager: xsave.PluginManager) -> None:
    report = xsave.verify(GOLDEN / name, base=base_of(name), manager=manager)
    assert report.nr_pages > 0
    assert not report.not_understood


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("v2")])
def test_golden_images_of_version_2_have_differences_in_them(name: str) -> None:
    keys: set[str] = set()
    for piece in batches((GOLDEN / name).read_bytes()):
        keys |= {key for key in ("same", "based", "kept") if piece.head.get(key)}
    assert keys == ({"same", "based"} if name in BASES else {"kept"})


@pytest.mark.parametrize("name", SOURCES)
def test_copying_a_golden_image_of_these_versions_changes_no_byte_but_the_header(
    name: str, manager: xsave.PluginManager
) -> None:
    """Same pieces with the same bodies: what is released is not silently written otherwise."""
    out = io.BytesIO()
    checksum = "sha256" if "sha256" in name else ""
    xsave.run(GOLDEN / name, out, checksum=checksum, manager=manager)
    original = (GOLDEN / name).read_bytes()
    copied = out.getvalue()
    assert len(copied) == len(original)
    start = original.index(b"xsvp")
    seal_and_tail = 160  # the end piece, whose seal covers the header
    assert copied[start:-seal_and_tail] == original[start:-seal_and_tail]
