"""A save that is killed, run in dom0: ``python3 killed_save.py HOW GUEST PART``.

HOW is ``run`` for ``xsave run xen:``, else whose helper runs under ``xl save -c``. What is killed
with SIGKILL is xsave itself, or the helper, PART seconds after it began; 0 lets it live. Prints
JSON: ``lived_s`` until it ended, ``was_killed``, the exit ``status`` and what was ``said``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path("/root/killed")
HELPER = "/opt/xsave/bin/xsave-libxl-helper"
POLL_S = 0.01


def child_of(parent: subprocess.Popen[bytes]) -> int | None:
    """The first one there is; None if it ended without."""
    while parent.poll() is None:
        for file in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split():
            return int(file)
        time.sleep(POLL_S)
    return None


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def main(how: str, guest: str, part_s: float) -> None:
    FOLDER.mkdir(exist_ok=True)
    said = Path("/root/killed.log")
    environment = dict(os.environ)
    argv = ["xl", "save", "-c", guest, str(FOLDER / "image.xl")]
    if how == "run":
        argv = ["/opt/xsave/bin/xsave", "run", f"xen:{guest}", str(FOLDER / "image.xsv")]
    elif how == "ours":
        environment["LIBXL_SAVE_HELPER"] = HELPER
    with said.open("wb") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
    victim = process.pid if how == "run" else child_of(process)
    began = time.monotonic()
    while victim is not None and process.poll() is None and is_alive(victim):
        if part_s and time.monotonic() - began >= part_s:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            break
        time.sleep(POLL_S)
    lived_s = time.monotonic() - began
    status = process.wait()
    text = said.read_text(errors="replace")
    # As its parent saw it end: it may have come to its own end just before the signal.
    died = f"[{victim}] died due to fatal signal Killed" in text
    print(json.dumps({
        "lived_s": lived_s, "status": status, "said": text,
        "was_killed": status == -signal.SIGKILL if how == "run" else died,
        "left": sorted(file.name for file in FOLDER.iterdir()),
    }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
