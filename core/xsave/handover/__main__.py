"""``python -m xsave.handover``: walk the model, and print what was walked."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from .model import Walk, walk

_WALKS = (
    ("messages and processes fail; no human helps", False),
    ("a journal or a host vanishes as well, once; humans who know decide", True),
)


def main() -> int:
    """:returns: 1 when a walk found something wrong."""
    wrong = False
    for title, calamities in _WALKS:
        found = walk(calamities=calamities)
        wrong |= found.violation is not None
        for line in told(title, found):
            sys.stdout.write(f"{line}\n")
    return int(wrong)


def told(title: str, found: Walk) -> Iterator[str]:
    """What one walk found, in lines."""
    yield f"model: {title}"
    yield f"  {found.nr_states} states, {sum(found.nr_moves.values())} moves, of which"
    for kind, count in sorted(found.nr_moves.items(), key=lambda item: -item[1]):
        yield f"  {count:8d}  {kind}"
    if found.violation is not None:
        yield f"  WRONG: {found.violation}"
        return
    yield "  in every state: never two guests, one after the other neither; never none; and a"
    yield "  way on to exactly one that runs, with two ends that know it"


if __name__ == "__main__":
    sys.exit(main())
