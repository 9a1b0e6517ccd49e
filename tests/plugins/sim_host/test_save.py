"""What a save of a simulated guest does not do, where it would cost most."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import xsave
from xsave.pipeline.collect import Collector

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


def test_a_batch_without_pages_costs_no_look_at_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below 4 GiB a PVH guest of 8 MiB has a thousand of them."""
    manager = xsave.build_manager()
    domain = manager.backends.find("sim").open("pvh?memory=8M")
    collector = Collector(domain, manager, manager.handler_table())
    monkeypatch.setattr(domain, "read_pages", None)
    pfns = np.arange(1 << 18, (1 << 18) + 1024, dtype=np.uint64)
    batch, late = collector.batch(pfns)
    domain.close()
    assert ((batch.entries >> xsave.TYPE_SHIFT) == xsave.XTAB).all()
    assert (batch.entries & xsave.PFN_MASK).tolist() == pfns.tolist()
    assert batch.pages is not None
    assert (batch.nr_pages, batch.pages.shape, late.tolist()) == (0, (0, 4096), [])
