"""``xsave-drgn IMAGE``: drgn's prompt, or a script of its user's, over an image."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence

import drgn
from xsave import XsaveError

from . import program


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    try:
        prog = program(options.image, base=options.base)
        if options.symbols:
            prog.load_debug_info(options.symbols)
    except XsaveError as error:
        _say(f"error: {error}")
        return error.exit_code
    except (drgn.MissingDebugInfoError, OSError) as error:
        _say(f"error: {error}")
        return 1
    if not prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL:
        _say("no Linux kernel says what it is in this image: there is physical memory only")
    drgn.set_default_prog(prog)
    if options.script:
        sys.argv = list(options.script)
        runpy.run_path(options.script[0], init_globals={"prog": prog}, run_name="__main__")
    else:
        import drgn.cli as prompt

        prompt.run_interactive(prog)
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"xsave-drgn: {text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xsave-drgn",
        description="Look with drgn into the guest in a save image, as it is.",
        epilog="example: xsave-drgn guest.xsv --symbols vmlinux-6.1.0-50-amd64",
    )
    parser.add_argument("image", metavar="IMAGE", help="native, or of Xen's toolstacks")
    parser.add_argument(
        "-s",
        "--symbols",
        action="append",
        metavar="FILE",
        help="with debug information of its kernel",
    )
    parser.add_argument("--base", metavar="IMAGE", help="that IMAGE was written against")
    parser.add_argument(
        "script", metavar="SCRIPT", nargs="*",
        help="to run, with its arguments (behind -- if any begins with a dash); else drgn's prompt",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
