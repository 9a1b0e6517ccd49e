"""Codec ``none``: bytes as they are. No copy is made either way."""

from __future__ import annotations

from collections.abc import Callable

from xsave import Buffer, Codec, PluginInfo, hookimpl

from . import damaged

PLUGIN = PluginInfo(name="none", summary="codec: bodies as they are", contract=(1, 1))


class NoneCodec(Codec):
    name = "none"
    summary = "no compression"

    def compress(self, data: Buffer, level: int) -> Buffer:
        return data

    def decompress(self, data: Buffer, size_bytes: int) -> Buffer:
        if (got := memoryview(data).nbytes) != size_bytes:
            raise damaged(self.name, size_bytes, f"{got} bytes")
        return data


@hookimpl
def xsave_register_codecs(register: Callable[[Codec], None]) -> None:
    register(NoneCodec())


@hookimpl
def xsave_doctor(report: Callable[[str, bool, str], None]) -> None:
    report("library", True, "none is needed")
