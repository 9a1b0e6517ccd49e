"""The reader in docs/formats/native.md reads an image with nothing of xsave."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import xsave

ROOT = Path(__file__).parents[2]


def test_a_stranger_can_read_an_image_by_the_document(
    tmp_path: Path, small_image: Path, manager: xsave.PluginManager
) -> None:
    text = (ROOT / "docs" / "formats" / "native.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "docs/formats/native.md", "exec"), names)
    image = tmp_path / "guest.xsv"
    report = xsave.run(small_image, image, codec="zstd:1", manager=manager)

    with image.open("rb") as file:
        found = list(names["names"](file))

    counts: dict[str, int] = {}
    for name, _ in found:
        counts[name] = counts.get(name, 0) + 1
    assert counts == {count.name: count.count for count in report.records.values()}
    assert sum(pages for _, pages in found) == report.nr_pages == 4092
