from __future__ import annotations

import subprocess
import sys

import pytest

MOVE = """
import sys
import attrs
import xsave
from xsave.pipeline.save import DomainReader

pause, make_class = DomainReader._pause, attrs.define

def pause_and_look(reader):
    pause(reader)
    loaded.update(sys.modules)
    attrs.define = tell

def tell(cls, **options):
    print(cls.__qualname__)
    return make_class(cls, **options)

def look(source, dest):
    print(*sorted(sys.modules.keys() - loaded))

loaded = set()
DomainReader._pause = pause_and_look
xsave.run(f"sim:{sys.argv[1]}?memory=8M&name=moved", "sim:?host=b&name=moved", at_rest=look)
"""


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_nothing_is_loaded_while_the_guest_stands_still(kind: str) -> None:
    """And no value class is made. At either end: this process is both."""
    done = subprocess.run(
        [sys.executable, "-c", MOVE, kind], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "\n")
