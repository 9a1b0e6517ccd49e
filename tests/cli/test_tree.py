from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from xsave.cli.tree import Node, _indented, _rich_tree, field_nodes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


def lines(fields: object, *, whole: bool = False) -> list[str]:
    return list(_indented(Node("record", "", field_nodes(fields, whole=whole))))[1:]


def test_numbers_are_shown_with_names_bits_and_hexadecimal() -> None:
    fields = {
        "mode": {"value": 2, "name": "native"},
        "flags": {"value": 9, "bits": {"mask": 1, "level": 4, "off": 0}},
        "size": 4096,
        "on": True,
        "none": None,
        "empty": "",
    }
    assert lines(fields) == [
        "  mode  native (2)",
        "  flags  9  bits: mask, level=4",
        "  size  4096 (0x1000)",
        "  on  yes",
        "  none  -",
        "  empty  ''",
    ]


def test_small_groups_share_a_line_and_large_ones_do_not() -> None:
    assert lines({"a": {"b": 1, "c": "x"}, "d": [1, 2], "e": [], "f": {}}) == [
        "  a  b=1  c=x", "  d  1  2", "  e  none", "  f  none",
    ]  # fmt: skip
    assert lines({"a": {"b": {"c": 1}}}) == ["  a", "    b  c=1"]
    assert lines({"a": [{"b": 1}]}) == ["  a", "    [0]  b=1"]


def test_long_texts_and_lists_are_shortened_unless_the_whole_is_wanted() -> None:
    text = "0123456789" * 10
    fields = {"text": text, "list": list(range(1000))}
    short = lines(fields)
    assert short[0] == "  text  " + text[:72] + "… (100 characters)"
    assert short[-1] == "    …  988 more"
    assert len(short) == 1 + 1 + 12 + 1
    whole = lines(fields, whole=True)
    assert whole[0] == "  text  " + text
    assert len(whole) == 1 + 1 + 1000


def test_a_record_without_fields_has_no_children_and_a_bare_value_one() -> None:
    assert lines(None) == []
    assert lines([1]) == ["  value  1"]
    assert lines({"value": 3, "name": "three"}) == ["  value  three (3)"]


@given(JSON, st.booleans())
def test_whatever_a_plugin_describes_can_be_shown(fields: object, whole: bool) -> None:
    assert all(isinstance(line, str) for line in lines(fields, whole=whole))


def test_text_that_looks_like_markup_is_text() -> None:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(_rich_tree(Node("[bold]", "[/nothing] :smile:", [Node("a\x1b", "b")])))
    assert capture.get() == "[bold]  [/nothing] :smile:\n└── a\\x1b  b\n"
