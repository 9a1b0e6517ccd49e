"""xen.xend.config by the contract's own suite."""

from __future__ import annotations

from typing import Any, ClassVar

from tests.plugins.legacy import build as o
from xsave import RecordHandler
from xsave.testing import HandlerSuite
from xsave_plugins.legacy.xend_config import XendConfigHandler


class TestXendConfig(HandlerSuite):
    handler: ClassVar[RecordHandler[Any]] = XendConfigHandler()
    bodies = (o.XEND_PV, o.XEND_HVM, b" (domain)\n")
    refused = (b"", b"domain", b"(domain", b"(domain) (domain)")
