"""The command line: one file for each command, and this way in.

Nothing is imported before it is known what was asked for: ``xsave --version`` answers
without click, ``xsave --help`` without plugins, attrs or numpy.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    :param arguments: without the program's name; by default those of this process.
    :returns: the exit code, see docs/exit-codes.md. Raises nothing.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"] and sys.stdout is not None:
        from .. import __version__

        try:
            sys.stdout.write(f"xsave {__version__}\n")
            sys.stdout.flush()
        except OSError as error:
            from .output import give_up_stdout

            return give_up_stdout(error)
        return 0
    from ..light_start import start_lightly

    start_lightly()
    from .invocation import invoke

    return invoke(given)
