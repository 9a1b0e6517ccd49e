"""How a codec is asked for: ``NAME[:LEVEL]``."""

from __future__ import annotations

import re

import pytest

from xsave import Buffer, Codec, CodecChoice, UnknownNameError, UsageError, parse_codec


class Squeeze(Codec):
    name = "squeeze"
    levels = (-2, 9)
    default_level = 3

    def compress(self, data: Buffer, level: int) -> Buffer:
        return data

    def decompress(self, data: Buffer, size_bytes: int) -> Buffer:
        return data


class Plain(Squeeze):
    name = "plain"
    levels = (0, 0)
    default_level = 0


CODECS: dict[str, Codec] = {"squeeze": Squeeze(), "plain": Plain()}


def find(name: str) -> Codec:
    try:
        return CODECS[name]
    except KeyError:
        raise UnknownNameError(kind="codec", name=name, known=sorted(CODECS)) from None


@pytest.mark.parametrize(
    ("text", "name", "level", "shown"),
    [
        ("squeeze", "squeeze", 3, "squeeze:3"),
        ("squeeze:9", "squeeze", 9, "squeeze:9"),
        ("squeeze:-2", "squeeze", -2, "squeeze:-2"),
        ("plain", "plain", 0, "plain"),
    ],
)
def test_a_choice_is_understood_and_shown(text: str, name: str, level: int, shown: str) -> None:
    choice = parse_codec(text, find)
    assert choice == CodecChoice(CODECS[name], level)
    assert str(choice) == shown


@pytest.mark.parametrize(
    "text", ["squeeze:", "squeeze:10", "squeeze:-3", "squeeze:x", "squeeze:1:2"]
)
def test_a_level_out_of_range_is_refused_with_the_range(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape("is not within -2 to 9")):
        parse_codec(text, find)


def test_a_level_for_a_codec_without_levels_is_refused() -> None:
    with pytest.raises(UsageError, match="has no levels"):
        parse_codec("plain:0", find)


@pytest.mark.parametrize("text", ["", "zip", "zip:1", ":1"])
def test_an_unknown_codec_lists_the_known(text: str) -> None:
    with pytest.raises(UnknownNameError, match="known: plain, squeeze"):
        parse_codec(text, find)


def test_a_codec_without_magic_has_no_stand_alone_files() -> None:
    with pytest.raises(UsageError, match="plain has no stand-alone files"):
        CODECS["plain"].open_stream(lambda _size_bytes: b"")
