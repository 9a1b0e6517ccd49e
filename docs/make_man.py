"""Writes docs/man: a page for xsave and one for each command, from what --help says.

Run it after a change of the command line: ``python docs/make_man.py``. A test compares.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import click

from xsave import __version__
from xsave.cli.group import COMMANDS, EXIT_CODES, xsave

FOLDER = Path(__file__).parent / "man"
# names, not the whole sentence: the errors' own page is docs/exit-codes.md
ENVIRONMENT = {
    "XSAVE_PLUGINS": "Names with commas between them: what --plugins is where it is not given.",
    "XSAVE_STATE": "Where the journal of migrations is kept.",
    "XSAVE_DEBUG": "If 1, an error that is a bug shows where it happened.",
    "NO_COLOR": "If set, nothing is coloured.",
    "SOURCE_DATE_EPOCH": "Seconds since 1970: the time that images say they were written at.",
}


def roff(text: str) -> str:
    """Text in which nothing is taken for a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{text}" if text.startswith(".") else text


def prose(text: str) -> list[str]:
    """Paragraphs as click marks them: a line with \\b keeps the lines that follow."""
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        if not paragraph.startswith("\b"):
            lines += [".PP", roff(" ".join(paragraph.split()))]
            continue
        heading, *kept = paragraph.split("\n")[1:]
        lines += [f".SH {heading.rstrip(':').upper()}", ".nf"]
        lines += [roff(line.removeprefix("  ")) for line in kept]
        lines.append(".fi")
    return lines


def option(parameter: click.Option) -> list[str]:
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    value = "" if parameter.is_flag or parameter.count else f" {parameter.metavar}"
    return [".TP", f"\\fB{roff(names)}\\fR{roff(value)}", roff(parameter.help or "")]


def page(name: str, command: click.Command, summary: str) -> str:
    """One page. ``command.help`` ends with its examples."""
    context = click.Context(command, info_name=name, help_option_names=["-h", "--help"])
    usage = " ".join(command.collect_usage_pieces(context))
    title = name.replace(" ", "-")
    lines = [
        f'.TH "{roff(title.upper())}" 1 "" "xsave {__version__}" "xsave"',
        ".SH NAME",
        f"{roff(title)} \\- {roff(summary[0].lower() + summary[1:-1])}",
        ".SH SYNOPSIS",
        f"\\fB{roff(name)}\\fR {roff(usage)}",
    ]
    described, _, examples = inspect.cleandoc(command.help or "").partition("\n\n\b\n")
    lines += [".SH DESCRIPTION", *prose(described)[1:]]
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    lines.append(".SH OPTIONS")
    for parameter in options:
        lines += option(parameter)
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for inner, about in COMMANDS.items():
            lines += [".TP", f"\\fB{roff(f'{name}-{inner}')}\\fR(1)", roff(about)]
        examples = (command.epilog or "").removeprefix("\b\n").partition("\n\n")[0]
        lines += environment()
    lines += prose(f"\b\n{examples}")
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXIT_CODES.items():
        lines += [".TP", f"\\fB{code}\\fR", roff(f"{meaning[0].upper()}{meaning[1:]}.")]
    others = ["xsave", *(f"xsave-{inner}" for inner in COMMANDS)]
    others.remove(title)
    lines += [".SH SEE ALSO", ", ".join(f"\\fB{roff(other)}\\fR(1)" for other in others)]
    return "\n".join(lines) + "\n"


def environment() -> list[str]:
    lines = [".SH ENVIRONMENT"]
    for name, about in ENVIRONMENT.items():
        lines += [".TP", f"\\fB{name}\\fR", roff(about)]
    return lines


def pages() -> dict[str, str]:
    """File name to text, of all pages."""
    made = {"xsave.1": page("xsave", xsave, "Freeze a virtual machine into bytes, and thaw it.")}
    context = click.Context(xsave)
    for inner, about in COMMANDS.items():
        command = xsave.get_command(context, inner)
        assert command is not None
        made[f"xsave-{inner}.1"] = page(f"xsave {inner}", command, about)
    return made


if __name__ == "__main__":
    for file_name, text in pages().items():
        (FOLDER / file_name).write_text(text)
