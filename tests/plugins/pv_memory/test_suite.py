"""What the contract promises of every handler, for those of the pv plugin."""

from __future__ import annotations

from pathlib import Path
from random import Random

from xsave.testing import HandlerSuite, MemoryHandlerSuite
from xsave_plugins.pv_memory.info import PvInfoHandler
from xsave_plugins.pv_memory.p2m_frames import P2mFramesHandler
from xsave_plugins.pv_memory.page_data import PvPageDataHandler
from xsave_plugins.pv_memory.shared_info import SharedInfoHandler
from xsave_plugins.pv_memory.vcpu_basic import VcpuBasicHandler
from xsave_plugins.pv_memory.vcpu_extended import VcpuExtendedHandler
from xsave_plugins.pv_memory.vcpu_msrs import VcpuMsrsHandler
from xsave_plugins.pv_memory.vcpu_xsave import VcpuXsaveHandler

RECORDS = Path(__file__).parents[2] / "golden" / "records"
VCPU_HEADER = bytes([1, 0, 0, 0, 2, 0, 0, 0])


def noise(size_bytes: int) -> bytes:
    return Random(size_bytes).randbytes(size_bytes)


class TestInfo(HandlerSuite):
    handler = PvInfoHandler()
    golden = RECORDS
    bodies = (b"\4\3abcdef", b"\10\4abcdef and more")
    refused = (b"", b"\10\4\0\0\0\0\0", b"\10\3\0\0\0\0\0\0")


class TestP2mFrames(HandlerSuite):
    handler = P2mFramesHandler()
    golden = RECORDS
    bodies = (bytes(4) + b"\xff\3\0\0" + noise(8), bytes(4) + b"\xff\3\0\0" + noise(16))
    refused = (b"", bytes(8), b"\1" + bytes(15), bytes(24))


class TestVcpuBasic(HandlerSuite):
    handler = VcpuBasicHandler()
    golden = RECORDS
    bodies = (VCPU_HEADER + noise(5168), VCPU_HEADER + noise(2800))
    refused = (b"", VCPU_HEADER, VCPU_HEADER + bytes(2799), VCPU_HEADER + bytes(5169))
    max_examples = 40


class TestVcpuExtended(HandlerSuite):
    handler = VcpuExtendedHandler()
    golden = RECORDS
    bodies = (VCPU_HEADER, *(VCPU_HEADER + noise(size) for size in (32, 40, 48, 56, 64, 128)))
    refused = (b"", VCPU_HEADER + bytes(31), VCPU_HEADER + bytes(129))


class TestVcpuXsave(HandlerSuite):
    handler = VcpuXsaveHandler()
    golden = RECORDS
    bodies = (VCPU_HEADER, VCPU_HEADER + noise(16), VCPU_HEADER + noise(536) + bytes(56))
    refused = (b"", VCPU_HEADER + bytes(15), VCPU_HEADER + bytes(17), VCPU_HEADER + bytes(591))


class TestVcpuMsrs(HandlerSuite):
    handler = VcpuMsrsHandler()
    bodies = (VCPU_HEADER, VCPU_HEADER + noise(48))
    refused = (b"", VCPU_HEADER + bytes(15), VCPU_HEADER + bytes(17))


class TestSharedInfo(HandlerSuite):
    handler = SharedInfoHandler()
    golden = RECORDS
    refused = (b"", bytes(4095), bytes(4097))
    max_examples = 40


class TestPageData(MemoryHandlerSuite):
    handler = PvPageDataHandler()
    good = ([0], [kind << 60 | 0xFF << 52 | kind for kind in (*range(5), *range(9, 16))])
    refused = ([5 << 60], [0, 6 << 60 | 7], [7 << 60], [8 << 60, 0])
