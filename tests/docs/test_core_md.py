"""The example of docs/formats/core.md prints what it shows."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.test_cli_md import examples, matches


def test_the_example_prints_what_it_shows(tmp_path: Path, small_image: Path) -> None:
    shutil.copy(small_image, tmp_path / "guest.save")
    tool = tmp_path / "xsave"
    tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m xsave "$@"\n')
    tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "COLUMNS": "90"}
    found = examples("formats/core.md")
    assert len(found) == 3
    for command, shown in found:
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert matches(shown, done.stdout), f"$ {command}\n{done.stdout}"
