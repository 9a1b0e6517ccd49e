"""The bundled codecs: the contract, larger random data, and what some of them promise."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import tracemalloc
from importlib.metadata import EntryPoint

import lz4.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xsave_plugins.codecs
from xsave import Codec, FieldError, PluginManager
from xsave.testing import CodecSuite
from xsave_plugins.codecs import brotli, none, xz, zstd
from xsave_plugins.codecs import bzip2 as bzip2_plugin
from xsave_plugins.codecs import gzip as gzip_plugin
from xsave_plugins.codecs import lz4 as lz4_plugin

CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        none.NoneCodec(), brotli.BrotliCodec(), zstd.ZstdCodec(), lz4_plugin.Lz4Codec(),
        gzip_plugin.GzipCodec(), xz.XzCodec(), bzip2_plugin.Bzip2Codec(),
    )
}  # fmt: skip
PACKING = ("brotli", "zstd", "lz4", "gzip", "xz", "bzip2")


class TestNone(CodecSuite):
    codec = CODECS["none"]


class TestBrotli(CodecSuite):
    codec = CODECS["brotli"]


class TestZstd(CodecSuite):
    codec = CODECS["zstd"]
    stand_alone_content = b"a file of its own, " * 999
    stand_alone = zstd._library().compress(stand_alone_content)


class TestLz4(CodecSuite):
    codec = CODECS["lz4"]
    stand_alone_content = b"a file of its own, " * 999
    stand_alone = lz4.frame.compress(stand_alone_content)


class TestGzip(CodecSuite):
    codec = CODECS["gzip"]
    stand_alone_content = b"a file of its own, " * 999
    stand_alone = gzip.compress(stand_alone_content)


class TestXz(CodecSuite):
    codec = CODECS["xz"]
    stand_alone_content = b"a file of its own, " * 999
    stand_alone = lzma.compress(stand_alone_content)


class TestBzip2(CodecSuite):
    codec = CODECS["bzip2"]
    stand_alone_content = b"a file of its own, " * 999
    stand_alone = bz2.compress(stand_alone_content)


def test_an_xz_file_that_wants_too_much_memory_is_refused() -> None:
    """A dictionary of 192 MiB, of which a reader would have to make room for all."""
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 192 << 20, "mode": lzma.MODE_FAST,
                "mf": lzma.MF_HC3, "nice_len": 16}]  # fmt: skip
    greedy = lzma.compress(b"small", filters=filters)
    read = CODECS["xz"].open_stream(io.BytesIO(greedy).read)
    with pytest.raises(FieldError, match=r"[Mm]emory"):
        read(100)


some_bytes = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda piece, n: piece * n, st.binary(min_size=1, max_size=9), st.integers(0, 9000)),
)


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=60, deadline=None)
@given(data=some_bytes, share=st.floats(0, 1))
def test_unpacking_gives_back_what_was_packed_at_every_level(
    name: str, data: bytes, share: float
) -> None:
    codec = CODECS[name]
    low, high = codec.levels
    packed = codec.compress(data, low + round(share * (high - low)))
    assert bytes(codec.decompress(packed, len(data))) == data


def test_none_makes_no_copy() -> None:
    data = bytearray(4096)
    assert CODECS["none"].compress(data, 0) is data
    assert CODECS["none"].decompress(data, 4096) is data


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=60, deadline=None)
@given(data=some_bytes, more=st.integers(1, 70000))
def test_another_size_than_the_real_one_is_refused(name: str, data: bytes, more: int) -> None:
    codec = CODECS[name]
    packed = codec.compress(data, codec.default_level)
    with pytest.raises(FieldError, match=f"^{name} data: expected {len(data) + more} bytes"):
        codec.decompress(packed, len(data) + more)
    if data:
        with pytest.raises(FieldError, match=f"^{name} data"):
            codec.decompress(packed, max(len(data) - more, 0))


@pytest.mark.parametrize("name", PACKING)
@settings(max_examples=60, deadline=None)
@given(data=some_bytes, share=st.floats(0, 1, exclude_max=True))
def test_a_cut_body_is_refused(name: str, data: bytes, share: float) -> None:
    codec = CODECS[name]
    packed = bytes(codec.compress(data, codec.default_level))
    with pytest.raises(FieldError, match=f"^{name} data"):
        codec.decompress(packed[: int(len(packed) * share)], len(data))


@pytest.mark.parametrize("name", PACKING)
@pytest.mark.parametrize("tail", [b"\0", b"tail", bytes(70000)])
@pytest.mark.parametrize("data", [b"", b"x", os.urandom(5000), bytes(3 << 20)])
def test_bytes_after_the_end_are_refused(name: str, tail: bytes, data: bytes) -> None:
    codec = CODECS[name]
    packed = bytes(codec.compress(data, codec.default_level))
    with pytest.raises(FieldError, match=f"^{name} data"):
        codec.decompress(packed + tail, len(data))


@pytest.mark.parametrize("name", PACKING)
@settings(max_examples=150, deadline=None)
@given(data=some_bytes, where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_keeps_the_size(
    name: str, data: bytes, where: float, bit: int
) -> None:
    codec = CODECS[name]
    packed = bytearray(codec.compress(data, codec.default_level))
    packed[int(len(packed) * where)] ^= 1 << bit
    try:
        unpacked = codec.decompress(packed, len(data))
    except FieldError as error:
        assert error.field == f"{name} data"
    else:  # these codecs carry no checksum: the images' own do that work
        assert len(unpacked) == len(data)


@pytest.mark.parametrize("name", PACKING)
@settings(max_examples=100, deadline=None)
@given(junk=st.binary(max_size=200), size_bytes=st.integers(0, 1 << 16))
def test_any_bytes_are_unpacked_to_the_wanted_size_or_refused(
    name: str, junk: bytes, size_bytes: int
) -> None:
    try:
        assert len(CODECS[name].decompress(junk, size_bytes)) == size_bytes
    except FieldError as error:
        assert error.field == f"{name} data"


@pytest.mark.parametrize("name", PACKING)
@pytest.mark.parametrize("size_bytes", [0, 1, 4096, 1 << 20])
def test_a_bomb_makes_no_more_than_was_asked_for(name: str, size_bytes: int) -> None:
    codec = CODECS[name]
    bomb = codec.compress(bytes(64 << 20), codec.default_level)
    tracemalloc.start()
    try:
        with pytest.raises(FieldError, match=f"^{name} data"):
            codec.decompress(bomb, size_bytes)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * size_bytes + (4 << 20)


def test_a_zstd_frame_names_its_size_and_one_that_does_not_is_refused() -> None:
    library = zstd._library()
    codec = CODECS["zstd"]
    assert library.get_frame_info(codec.compress(b"body" * 9, 3)).decompressed_size == 36
    without = library.ZstdCompressor(3)
    packed = without.compress(b"body" * 9) + without.flush()
    with pytest.raises(FieldError, match="a frame without its size"):
        codec.decompress(packed, 36)


def test_a_skippable_frame_is_no_body() -> None:
    skippable = bytes.fromhex("502a4d18 05000000") + b"aside"
    codec = CODECS["zstd"]
    for body in (skippable, skippable + bytes(codec.compress(b"", 3))):
        with pytest.raises(FieldError, match="got no zstd frame"):
            codec.decompress(body, 0)


@pytest.mark.parametrize(
    ("name", "module"), [("brotli", "brotli"), ("zstd", "backports.zstd"), ("lz4", "lz4")]
)
@pytest.mark.parametrize("parent_is_missing", [False, True])
def test_a_missing_library_costs_only_that_plugin_and_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, parent_is_missing: bool
) -> None:
    def find_nothing(asked: str) -> None:
        if parent_is_missing:
            raise ModuleNotFoundError(f"No module named {asked!r}")

    monkeypatch.setattr(xsave_plugins.codecs, "find_spec", find_nothing)
    monkeypatch.delitem(sys.modules, f"xsave_plugins.codecs.{name}")
    manager = PluginManager()
    manager.load_entry_point(EntryPoint(name, f"xsave_plugins.codecs.{name}", "xsave"))
    manager.load_entry_point(EntryPoint("none", "xsave_plugins.codecs.none", "xsave"))
    assert [status.name for status in manager.failed] == [name]
    assert f"pip install 'xsave[{name}]'" in manager.failed[0].error
    assert manager.codecs.names() == ["none"]
    if name != "zstd" or sys.version_info < (3, 14):
        assert module in manager.failed[0].error


def test_no_library_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, xsave_plugins.codecs.zstd, xsave_plugins.codecs.lz4, "
        "xsave_plugins.codecs.brotli\n"
        "print([m for m in ('brotli', 'lz4', 'backports.zstd', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


@pytest.mark.parametrize("module", [none, brotli, zstd, lz4_plugin])
def test_the_doctor_reports_the_library_found(module: object) -> None:
    manager = PluginManager()
    manager.register(module)
    (_loads, (_plugin, what, fine, remark)) = manager.doctor()
    assert (what, fine) == ("library", True)
    assert remark
