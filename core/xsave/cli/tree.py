"""An inspection as a tree: drawn by rich on a terminal, else indented text."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .output import is_terminal, printable, write_stdout, write_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.tree import Tree

LINE_MAX = 100  # characters of a list or an object that is shown on one line
TEXT_MAX = 72  # of a text, unless the whole is wanted
ITEMS_MAX, ITEMS_SHOWN = 24, 12  # of a list, likewise


class Node:
    """:ivar label: what it is; :ivar value: on the same line; :ivar children: below."""

    def __init__(self, label: str, value: str = "", children: Iterable[Node] = ()) -> None:
        self.label = label
        self.value = value
        self.children = list(children)


def field_nodes(fields: Any, *, whole: bool) -> list[Node]:
    """A record's fields, as :func:`xsave.to_json` gives them.

    :param whole: shorten nothing.
    """
    if fields is None:
        return []
    if isinstance(fields, dict) and not _is_number(fields):
        return [_node(name, value, whole) for name, value in fields.items()]
    return [_node("value", fields, whole)]


def _node(label: str, value: Any, whole: bool) -> Node:
    line = _one_line(value, whole)
    if line is not None:
        return Node(label, line)
    if isinstance(value, dict):
        return Node(label, "", [_node(name, item, whole) for name, item in value.items()])
    shown = value if whole or len(value) <= ITEMS_MAX else value[:ITEMS_SHOWN]
    children = [_node(f"[{number}]", item, whole) for number, item in enumerate(shown)]
    if len(shown) < len(value):
        children.append(Node("…", f"{len(value) - len(shown)} more"))
    return Node(label, "", children)


def one_line(value: Any) -> str | None:
    """A value as the tree shows it on one line, whole; None if it needs several."""
    return _one_line(value, whole=True)


def _is_number(value: dict[str, Any]) -> bool:
    """Whether it is a number with its name or bits beside it; see :mod:`xsave.present`."""
    return isinstance(value.get("value"), int) and value.keys() <= {"value", "name", "bits"}


def _one_line(value: Any, whole: bool) -> str | None:
    """A value on one line, or None if it needs several."""
    if isinstance(value, dict):
        return _object_line(value)
    if isinstance(value, list):
        if len(value) > ITEMS_MAX or any(isinstance(item, dict) for item in value):
            return None
        return _joined(("", item) for item in value) if value else "none"
    if isinstance(value, str) and not whole and len(value) > TEXT_MAX:
        return f"{value[:TEXT_MAX]}… ({len(value)} characters)"
    return _scalar(value)


def _object_line(value: dict[str, Any]) -> str | None:
    if _is_number(value) and len(value) > 1:
        return _number(value)
    if any(isinstance(item, list) or _is_group(item) for item in value.values()):
        return None
    return _joined((f"{name}=", item) for name, item in value.items()) if value else "none"


def _is_group(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and not _is_number(value)


def _joined(items: Iterable[tuple[str, Any]]) -> str | None:
    parts, length = [], 0
    for prefix, item in items:
        line = _one_line(item, whole=True)
        if line is None or (length := length + len(prefix) + len(line) + 2) > LINE_MAX:
            return None
        parts.append(f"{prefix}{line}")
    return "  ".join(parts)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value} ({value:#x})" if value > 255 else str(value)
    if value is None:
        return "-"
    return value if isinstance(value, str) and value else repr(value)


def _number(value: dict[str, Any]) -> str:
    text = _scalar(value["value"])
    if "name" in value:
        text = f"{value['name']} ({value['value']})"
    if "bits" in value:
        on = [name if bit == 1 else f"{name}={bit}" for name, bit in value["bits"].items() if bit]
        text += f"  bits: {', '.join(on) or 'none'}"
    return text


def write_tree(root: Node) -> None:
    """To standard output.

    :raises OutputError: it cannot be written.
    """
    console = rich_console()
    if console is None:
        write_text(_indented(root))
        return
    with console.capture() as capture:
        console.print(_rich_tree(root))
    write_stdout(capture.get())


def _indented(node: Node, depth: int = 0) -> Iterator[str]:
    yield "  " * depth + (f"{node.label}  {node.value}" if node.value else node.label)
    for child in node.children:
        yield from _indented(child, depth + 1)


def rich_console() -> Console | None:
    """None where plain text is due: standard output is no terminal, or rich is not there."""
    if not is_terminal(sys.stdout):
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    if os.environ.get("NO_COLOR"):
        return Console(color_system=None, highlight=False)
    return Console(highlight=False)


def _rich_tree(node: Node) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    def text(of: Node) -> Text:
        # texts, not markup: what stands in an image must not be obeyed
        return Text.assemble((printable(of.label), "bold"), "  ", printable(of.value))

    def grow(branch: Tree, children: Iterable[Node]) -> None:
        for child in children:
            grow(branch.add(text(child)), child.children)

    tree = Tree(text(node), guide_style="dim")
    grow(tree, node.children)
    return tree
