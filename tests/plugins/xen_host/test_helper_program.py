"""What libxl waits for before anything is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from xsave_plugins.xen_host.save_helper import USAGE

# libxl would have asked by now: everything is loaded but what touches memory.
START = """
import gc, json, os, sys
from xsave_plugins.xen_host import helper_program, save_helper

def started():
    import xsave
    xsave.build_manager()
    save_helper.load_settings({})
    threads = os.environ["OPENBLAS_NUM_THREADS"]
    print(json.dumps([sorted(sys.modules), threads, gc.get_threshold()[0]]))
    return 0

save_helper.main = started
sys.exit(helper_program.main())
"""
NOT_NEEDED = {
    "asyncio", "click", "concurrent.futures", "html", "http", "multiprocessing", "numpy", "rich",
    "ssl", "subprocess", "tomllib", "unittest", "xml",
}  # fmt: skip


def test_the_helper_starts_lightly_and_loads_nothing_that_a_save_does_not_need() -> None:
    env = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, check=True, env=env)
    modules, nr_threads, threshold = json.loads(done.stdout)
    assert not NOT_NEEDED & set(modules)
    assert not {name for name in modules if name.startswith("xsave.cli")}
    assert (nr_threads, threshold) == ("1", 50_000)


def test_the_program_tells_a_person_what_it_is_for() -> None:
    code = "import sys\nfrom xsave_plugins.xen_host.helper_program import main\nsys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{USAGE}\n")
