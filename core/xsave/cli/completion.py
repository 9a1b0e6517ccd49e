"""``xsave completion``: the script that teaches a shell our commands, options and names."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> int:
    """Print the completion script of SHELL.

    Commands and options complete, and so do the names of plugins, formats, codecs and
    records.

    \b
    Examples:
      eval "$(xsave completion bash)"            # in ~/.bashrc
      eval "$(xsave completion zsh)"             # in ~/.zshrc
      xsave completion fish > ~/.config/fish/completions/xsave.fish
    """
    from click.shell_completion import get_completion_class

    from .group import xsave
    from .invocation import COMPLETION
    from .output import write_stdout

    completion = get_completion_class(shell)
    if completion is None:
        raise click.UsageError(f"this version of click knows no {shell}")
    write_stdout(completion(xsave, {}, "xsave", COMPLETION).source().rstrip("\n") + "\n")
    return 0
