"""``xsave`` itself: the commands by name. Each is imported when it is asked for."""

from __future__ import annotations

import importlib

import click

# With the line that ``xsave --help`` shows, so that help imports none of them.
COMMANDS = {
    "run": "Take every record from a source to a destination.",
    "migrate": "Move a guest to another process, or machine.",
    "receive": "Take guests that come from other processes.",
    "resolve": "Find out what became of migrations that were cut short.",
    "preflight": "Say whether a guest could go to a destination.",
    "describe-host": "Describe what a host can take, for 'preflight'.",
    "plan": "Estimate how a live migration would go.",
    "convert": "Write an image in another format, or with another codec.",
    "identify": "Name the format of a file, and say how it is recognised.",
    "inspect": "Show what is in an image: records, fields, pages.",
    "verify": "Find out whether an image is whole and right.",
    "diff": "Show what differs between two images of one guest.",
    "report": "Write an HTML page about an image: memory map, records, devices.",
    "redact": "Write an image without its guest's data, to be shown to others.",
    "salvage": "Save what is whole of a damaged image.",
    "plugins": "List the plugins and what each one provides.",
    "certs": "Make certificates for a laboratory.",
    "doctor": "Examine this installation, and say how to mend it.",
    "completion": "Print the completion script of a shell.",
}

# Where the file has another name: report.py is run's.
_HOMES = {"report": "image_report", "describe-host": "describe_host"}

EXIT_CODES = {
    0: "all went well",
    1: "it failed, or something differs",
    2: "the request makes no sense",
    3: "the image is damaged, cut or wrong",
    4: "the image is not authentic: its seal does not match",
    5: "a plugin is missing or broken",
    6: "done, but something was left out",
    7: "a stream broke off; the guest is there as of its last checkpoint",
    8: "the destination cannot take the guest, which was not touched",
    9: "it is not known where the guest runs: xsave resolve",
    75: "try again later",
    130: "interrupted; nothing half-written is left",
}

_EPILOG = "\n".join([
    "\b",
    "Examples:",
    "  xsave run guest.save guest.xsv --codec zstd:1",
    "  xsave run 'sim:pv?dirty=40M/s' guest.xsv --policy downtime:target=50ms",
    "  xsave run --plugins tmem,hvm",
    "  xsave convert guest.xsv guest.save --to xl",
    "  xsave inspect guest.xsv",
    "  xsave verify guest.xsv && echo good",
    "",
    "\b",
    "Exit codes:",
    *(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items()),
    "",
    "A single - is standard input or output. Images are written whole or not at all.",
])  # fmt: skip


class CommandGroup(click.Group):
    """Knows its commands by name, and imports them late."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        home = _HOMES.get(cmd_name, cmd_name)
        command: click.Command = importlib.import_module(f".{home}", __package__).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from .. import __version__

        click.echo(f"xsave {__version__}")
        context.exit()


@click.group(
    "xsave",
    cls=CommandGroup,
    invoke_without_command=True,
    no_args_is_help=False,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.pass_context
def xsave(context: click.Context) -> int:
    """Freeze a running virtual machine into bytes, and thaw it again.

    xsave reads and writes the images of saved guests. What it knows about records,
    formats and codecs comes from plugins: see 'xsave plugins'.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        return 2
    return 0
