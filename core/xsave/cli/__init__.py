"""The command line: one file for each command, and this way in.

Nothing is imported before it is known what was asked for: ``xsave --version`` answers
without click, ``xsave --help`` without plugins, attrs or numpy.
"""

from __future__ import annotations

import atexit
import gc
import os
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
    _start_lightly()
    from .invocation import invoke

    return invoke(given)


def _start_lightly() -> None:
    """Settings of this process that a library has no business to change. Processor time on
    an x86-64 machine of two cores, Python 3.11."""
    # numpy comes with a linear algebra library that makes a pool of threads when it is
    # loaded: 60 of its 140 ms, for something that nothing here uses.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Collecting cyclic garbage every 700 objects, while modules are imported and nothing is
    # garbage, takes 8 of 155 ms. With a threshold of 200,000 not even the one collection is left
    # that takes 14 of 250 ms, but garbage that holds pages adds up to gigabytes where many
    # runs share a process.
    gc.set_threshold(50_000)
    # At the end of the process the interpreter looks through all of them for garbage, though
    # the memory goes back as a whole: 30 of 250 ms.
    atexit.unregister(gc.freeze)  # from a command before, in the same process
    atexit.register(gc.freeze)
