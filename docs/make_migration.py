"""Writes the tables of docs/migration.md from those that drive the program.

Run it after a change of :mod:`xsave.handover`: ``python docs/make_migration.py``. A test
compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from xsave.handover import destination, source

DOCUMENT = Path(__file__).parent / "migration.md"
ENDS = {"source": source, "destination": destination}


def states(end: ModuleType) -> Iterator[str]:
    """Each state, whether the journal has it, and who owns the guest then."""
    yield "| state | in the journal | whose guest it is |"
    yield "| --- | --- | --- |"
    written = _journaled(end)
    for state in end.State:
        kept = "open" if state in end.OPEN else "closed" if state in written else "-"
        yield f"| `{state.value}` | {kept} | {end.OWNER[state]} |"


def steps(end: ModuleType) -> Iterator[str]:
    """Each step that changes or does something; those that a state only bears with are one."""
    yield "| in | what happens | becomes | what it does, in this order |"
    yield "| --- | --- | --- | --- |"
    for state, row in end.TABLE.steps.items():
        borne = [event.value for event, step in row.items() if step.to is state and not step.acts]
        for event, step in row.items():
            if event.value in borne:
                continue
            acts = ", ".join(act.value for act in step.acts) or "-"
            then = f"; then *{step.then.value}*" if step.then is not None else ""
            yield f"| `{state.value}` | {event.value} | `{step.to.value}` | {acts}{then} |"
        if borne:
            yield f"| `{state.value}` | {', '.join(borne)} | `{state.value}` | - |"
    failing = [f"{act.value}: *{event.value}*" for act, event in end.TABLE.failures.items()]
    yield ""
    yield f"What is told when an act fails: {'; '.join(failing)}."
    if end.TABLE.doubts:
        doubted = [f"{act.value}: *{event.value}*" for act, event in end.TABLE.doubts.items()]
        yield (
            "When its host does not answer, so that nobody knows whether it was done: "
            f"{'; '.join(doubted)}."
        )


def _journaled(end: ModuleType) -> set[object]:
    return {
        step.to
        for row in end.TABLE.steps.values()
        for step in row.values()
        if end.Act.JOURNAL in step.acts
    }


def filled(document: str) -> str:
    """That text with its tables as they are now."""
    for name, end in ENDS.items():
        for kind, lines in (("states", states(end)), ("steps", steps(end))):
            text = "\n".join(lines)
            document = re.sub(
                rf"(<!-- {name} {kind} -->\n).*?(<!-- end -->)",
                lambda match, text=text: match[1] + text + "\n" + match[2],  # type: ignore[misc]
                document, flags=re.DOTALL,
            )  # fmt: skip
    return document


if __name__ == "__main__":
    DOCUMENT.write_text(filled(DOCUMENT.read_text()))
