"""What the contract promises of every handler, for those of the x86 plugin."""

from __future__ import annotations

from pathlib import Path

from xsave.testing import HandlerSuite
from xsave_plugins.x86.cpuid_policy import CpuidPolicyHandler
from xsave_plugins.x86.msr_policy import MsrPolicyHandler
from xsave_plugins.x86.tsc_info import TscInfoHandler

RECORDS = Path(__file__).parents[2] / "golden" / "records"


class TestTscInfo(HandlerSuite):
    handler = TscInfoHandler()
    golden = RECORDS
    refused = (b"", bytes(23), bytes(25))


class TestCpuidPolicy(HandlerSuite):
    handler = CpuidPolicyHandler()
    golden = RECORDS
    refused = (b"", bytes(23), bytes(25))


class TestMsrPolicy(HandlerSuite):
    handler = MsrPolicyHandler()
    golden = RECORDS
    refused = (b"", bytes(15), bytes(17))
