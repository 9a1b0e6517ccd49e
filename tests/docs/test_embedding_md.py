"""The example in docs/embedding.md does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def example() -> dict[str, Any]:
    text = (ROOT / "docs" / "embedding.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {"__name__": "archive"}
    exec(compile(block, "docs/embedding.md", "exec"), names)
    return names


def test_the_archive_keeps_good_images_and_says_what_is_wrong_with_others(
    tmp_path: Path, small_image: Path
) -> None:
    good = tmp_path / "good.save"
    good.write_bytes(small_image.read_bytes())
    cut = tmp_path / "cut.save"
    cut.write_bytes(small_image.read_bytes()[:-5000])
    folder = tmp_path / "archive"
    folder.mkdir()
    archive = example()["Archive"](folder)

    outcome = archive.keep_all([good, cut])

    assert outcome["good.save"] == "kept, 4092 pages"
    assert outcome["cut.save"].startswith("bad image: the image is cut")
    assert [path.name for path in folder.iterdir()] == ["good.xsv"]
    assert archive.vcpus("good") == 2
    assert len(archive.first_page("good")) == 4096


def test_a_cancelled_archive_leaves_nothing_behind(tmp_path: Path, small_image: Path) -> None:
    names = example()
    archive = names["Archive"](tmp_path)
    archive.stopping.set()
    try:
        archive.keep(small_image)
    except names["xsave"].CancelledError:
        assert list(tmp_path.iterdir()) == []
    else:
        raise AssertionError("the run was not cancelled")
