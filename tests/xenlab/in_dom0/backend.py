"""What xsave promises of domain backends, kept by ``xen:`` where it works: in dom0, on a guest
that runs. Its name is in the environment variable ``GUEST``.

A domain is built by its toolstack alone, so what begins with an empty one is tried with libxl
(test_helper.py) instead, and what ends the guest as well.
"""

from __future__ import annotations

import os
import time

import numpy as np

from xsave import Domain, HvmFacet
from xsave.testing import BackendSuite
from xsave_plugins.xen_host.backend import XenBackend

STORE, CONSOLE, IOREQ, BUFFERED_IOREQ = 1, 17, 5, 6  # parameters that name the host's pages


class TestXen(BackendSuite):
    backend = XenBackend()
    bad_addresses = ("", "a b", "a/b", "0", "nobody")
    patience = 100

    def source_address(self) -> str:
        return os.environ["GUEST"]

    def put_away(self, domain: Domain) -> None:
        domain.stop_dirty_log()
        domain.resume()
        domain.close()

    def let_it_run(self, domain: Domain) -> None:
        time.sleep(0.5)

    def written_by_the_host(self, domain: Domain) -> np.ndarray:
        hvm: HvmFacet | None = domain.facet("hvm")
        params = {} if hvm is None else hvm.params()
        known = (STORE, CONSOLE, IOREQ, BUFFERED_IOREQ)
        return np.array([params[one] for one in known if one in params], np.uint64)
