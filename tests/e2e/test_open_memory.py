"""Memory in an image is read at any address, as it is there, without reading the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import xsave
from xsave.pipeline import memory as module

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def images(
    small_image: Path, tmp_path_factory: pytest.TempPathFactory, manager: xsave.PluginManager
) -> dict[str, Path]:
    """One guest in each format that can find pages."""
    folder = tmp_path_factory.mktemp("images")
    made = {"xl": small_image}
    for name in ("native", "libxl", "vmcore", "xen-core"):
        made[name] = folder / f"guest.{name}"
        xsave.run(small_image, made[name], to=name, manager=manager)
    return made


FORMATS = ("xl", "native", "libxl", "vmcore", "xen-core")


@pytest.fixture(scope="module")
def pages(small_image: Path, manager: xsave.PluginManager) -> dict[int, bytes]:
    found = xsave.read_pfns(DATA / "hvmbios.save.zst", range(1 << 14), manager=manager)
    return {pfn: page.tobytes() for pfn, (_, page) in found.items() if page is not None}


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_finds_the_same_memory(
    images: dict[str, Path], pages: dict[int, bytes], format_: str, manager: xsave.PluginManager
) -> None:
    with xsave.open_memory(images[format_], manager=manager) as memory:
        ranges = memory.ranges()
        assert sum(size for _, size in ranges) == 4092 * 4096
        assert ranges[0][0] == 0
        assert ranges == sorted(ranges)
        for pfn in list(pages)[::97]:
            assert memory.read(pfn * 4096, 4096) == pages[pfn]
        assert memory.info.page_size == 4096


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    asked=st.lists(st.tuples(st.integers(0, 300 * 4096), st.integers(0, 3 * 4096)), max_size=8),
    block=st.sampled_from([1, 3, 64]),
)
def test_bytes_are_the_same_however_they_are_asked_for(
    images: dict[str, Path], pages: dict[int, bytes], asked: list[tuple[int, int]], block: int,
    manager: xsave.PluginManager,
) -> None:  # fmt: skip
    whole = b"".join(pages.get(pfn, bytes(4096)) for pfn in range(310))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_PFNS", block)
        patch.setattr(module, "BLOCKS_KEPT", 2)
        with xsave.open_memory(images["native"], manager=manager) as memory:
            for address, size in asked:
                touched = range(address // 4096, -(-(address + size) // 4096)) if size else ()
                absent = [pfn for pfn in touched if pfn not in pages]
                if absent:
                    with pytest.raises(xsave.AbsentPageError) as raised:
                        memory.read(address, size)
                    assert raised.value.pfn == absent[0]
                else:
                    assert memory.read(address, size) == whole[address : address + size]


def test_what_is_not_there_is_named(images: dict[str, Path], manager: xsave.PluginManager) -> None:
    with xsave.open_memory(images["native"], manager=manager) as memory:
        with pytest.raises(xsave.AbsentPageError, match="no contents for pfn 0x10000"):
            memory.read(0x10000000, 1)
        entries = memory.entries()
        assert int(entries[0]) == 0
        assert memory.read(0x10000000, 0) == b""


def test_memory_that_is_kept_is_bounded(
    images: dict[str, Path], manager: xsave.PluginManager
) -> None:
    with xsave.open_memory(images["xl"], manager=manager) as memory:
        for start, size in memory.ranges():
            memory.read(start, size)
        assert len(memory._blocks) <= module.BLOCKS_KEPT


def test_an_image_that_cannot_be_searched_says_what_to_do(
    images: dict[str, Path], manager: xsave.PluginManager
) -> None:
    with pytest.raises(xsave.UsageError, match=r"compressed as a whole.*make a native image"):
        xsave.open_memory(DATA / "hvmbios.save.zst", manager=manager)


def test_what_is_no_image_is_an_error(tmp_path: Path, manager: xsave.PluginManager) -> None:
    (tmp_path / "what").write_bytes(b"hello")
    with pytest.raises(xsave.UnrecognisedError):
        xsave.open_memory(tmp_path / "what", manager=manager)
    with pytest.raises(xsave.SourceError):
        xsave.open_memory(tmp_path / "nothing", manager=manager)
