"""``xsave resolve``: migrations that were cut short, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from .link_options import journal_in, link_options, patience_options, state_option
from .options import json_option, pass_settings, telling_options
from .settings import Settings

if TYPE_CHECKING:
    from ..io.journal import Entry, Journal
    from ..manager import PluginManager
    from ..pipeline.recover import Human


@click.command("resolve")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="Also list those with nothing open.")
@click.option("--list", "only_list", is_flag=True, help="Only list: ask nobody, do nothing.")
@click.option(
    "--here",
    "human",
    flag_value="here",
    help="Somebody knows that the guest is to run at this end, and that it does not "
    "run, and never will, at the other: with one ID.",
)
@click.option(
    "--there",
    "human",
    flag_value="there",
    help="Somebody knows that the guest runs at the other end: with one ID.",
)
@click.option(
    "--at", "address", metavar="ADDRESS", help="Ask the other end there, instead of where it was."
)
@patience_options
@state_option
@json_option
@telling_options
@pass_settings
def command(
    settings: Settings, ids: tuple[str, ...], all_: bool, only_list: bool, human: str | None,
    address: str | None, answer_s: float, patience_s: float, state: str | None,
) -> int:  # fmt: skip
    """Find out what became of migrations that were cut short, and finish them.

    Lists what is open in this machine's journal, or only the migrations named. A guest that
    was never given away runs on here. About one that was, the other end is asked ('xsave
    receive' must run there); it runs there, or is let run on here, by what it answers. What was
    being built here and never ran goes away. The exit code is 9 while something is left open.

    --here and --there are for when the other end is gone for good. They are believed: said
    wrongly, --here makes two guests of one.

    \b
    Examples:
      xsave resolve
      xsave resolve --list --all
      xsave resolve 5f0c9e1a7d7b4c1f8a3e6d2b9c4a1e70 --here
    """
    from ..errors import EXIT_OK, EXIT_UNDECIDED, UsageError
    from ..manager import build_manager
    from ..pipeline.recover import Human, is_open
    from .output import write_json, write_text

    if human is not None and len(ids) != 1:
        raise UsageError(f"--{human} is about one migration: name its ID")
    journal, manager = journal_in(state), build_manager()
    chosen = _chosen(journal, ids, all_)
    if not only_list:
        said = None if human is None else Human(human)
        chosen = [
            _resolved(entry, journal, manager, said, address, answer_s, patience_s)
            for entry in chosen
        ]
    left = [entry for entry in chosen if is_open(entry)]
    if settings.json:
        write_json(settings, "resolve", {
            "ok": not left, "migrations": [_as_json(entry) for entry in chosen],
        })  # fmt: skip
    elif not settings.quiet or left:
        write_text(_as_text(chosen))
    return EXIT_UNDECIDED if left else EXIT_OK


def _chosen(journal: Journal, ids: tuple[str, ...], all_: bool) -> list[Entry]:
    from ..errors import UnknownNameError
    from ..pipeline.recover import is_open

    entries = journal.entries()
    if not ids:
        return [entry for entry in entries if all_ or is_open(entry)]
    found = []
    for text in ids:
        matching = [entry for entry in entries if entry.id.startswith(text)]
        if not matching or len({entry.id for entry in matching}) != 1:
            known = sorted({entry.id for entry in entries if is_open(entry)})
            raise UnknownNameError(kind="migration", name=text, known=known)
        found += matching
    return found


def _resolved(
    entry: Entry, journal: Journal, manager: PluginManager, human: Human | None,
    address: str | None, answer_s: float, patience_s: float,
) -> Entry:  # fmt: skip
    """The entry as it is after what could be done for it; its remark says what could not."""
    from attrs import evolve

    from ..errors import TryAgainError, UsageError, XsaveError
    from ..pipeline.recover import is_open, resolve, told_by_human

    try:
        held = journal.hold(entry.id, entry.role)
    except TryAgainError as error:
        return evolve(entry, remark=str(error))
    with held:
        if held.entry is None or (not is_open(held.entry) and human is None):
            return held.entry or entry
        try:
            if human is not None:
                return told_by_human(held, manager, human)
            return resolve(
                held, manager, address or held.entry.address, answer_s, link_options(patience_s)
            )
        except UsageError:
            raise
        except XsaveError as error:
            return evolve(held.entry or entry, remark=str(error))


def _as_json(entry: Entry) -> dict[str, Any]:
    from attrs import asdict

    from ..pipeline.recover import is_open

    return {"open": is_open(entry), **asdict(entry)}


def _as_text(entries: Iterable[Entry]) -> list[str]:
    from ..pipeline.recover import is_open, what_now
    from .output import columns

    rows = [("MIGRATION", "END", "GUEST", "STATE", "SINCE", "OTHER END")]
    remarks = []
    for entry in entries:
        rows.append(
            (entry.id, entry.role, entry.guest, entry.state, entry.changed[:19] + "Z",
             entry.address or entry.peer)
        )  # fmt: skip
        if entry.remark:
            remarks.append(f"{entry.id}: {entry.remark}")
        if is_open(entry):
            remarks.append(f"{entry.id}: {what_now(entry)}")
    return columns(rows) + remarks if len(rows) > 1 else ["nothing is open"]
