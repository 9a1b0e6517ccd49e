"""How a program of ours starts: settings of a process that a library has no business to change.

For programs that do one thing and end, ``xsave`` itself and what a plugin brings along, before
they import anything large.
"""

from __future__ import annotations

import atexit
import gc
import os


def start_lightly() -> None:
    """Processor time on an x86-64 machine of two cores, Python 3.11."""
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
