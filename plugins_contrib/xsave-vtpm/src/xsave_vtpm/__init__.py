"""A virtual TPM's state: one optional record, ``vtpm.state``.

Body: a deterministic CBOR map (RFC 8949, 4.2.1; shorter keys first) of ``tpm``, "1.2" or
"2.0"; ``nvram``, names to the emulator's own blobs; and ``version``, 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import cbor2
from attrs import frozen
from xsave import (
    Buffer,
    Domain,
    FieldError,
    Handler,
    Phase,
    PluginInfo,
    RecordHandler,
    XsaveError,
    hookimpl,
)

PLUGIN = PluginInfo(name="vtpm", summary="state of a virtual TPM", contract=(1, 1))

LAYOUT_VERSION = 1
TPM_FAMILIES = ("1.2", "2.0")


@frozen
class VtpmState:
    """:ivar nvram: name of a blob, such as ``permanent``, to its bytes."""

    tpm: str
    nvram: Mapping[str, bytes]


class VtpmHandler(RecordHandler[VtpmState]):
    name = "vtpm.state"
    summary = "NVRAM of a virtual TPM"
    mandatory = False  # a guest without its TPM still runs
    phase = Phase.DEVICE_MODEL
    after = frozenset({"xen.qemu.context"})

    def decode(self, body: memoryview) -> VtpmState:
        try:
            found = cbor2.loads(body, max_depth=3, allow_indefinite=False)
        except cbor2.CBORError as error:
            raise FieldError(field="body", expected="CBOR", got=str(error)) from None
        state = _state(found)
        # One state has one body: this also refuses bytes behind the map.
        if b"".join(self.encode(state)) != body:
            raise FieldError(field="body", expected="deterministic CBOR", got="another form")
        return state

    def encode(self, state: VtpmState) -> Sequence[Buffer]:
        body = {"version": LAYOUT_VERSION, "tpm": state.tpm, "nvram": dict(state.nvram)}
        return (cbor2.dumps(body, canonical=True),)

    def prepare(self) -> None:
        from . import swtpm  # the guest stands still when it is needed

    def collect(self, domain: Domain) -> Iterable[VtpmState]:
        from .swtpm import folder_of, read_state

        folder = folder_of(domain.info.details)
        found = None if folder is None else read_state(folder)
        return () if found is None else (found,)

    def apply(self, domain: Domain, state: VtpmState) -> None:
        from .swtpm import folder_of, write_state

        if (folder := folder_of(domain.info.details)) is None:
            raise XsaveError("vtpm.state: this domain has no uuid to keep a TPM under")
        write_state(folder, state)


def _state(found: Any) -> VtpmState:
    if not isinstance(found, dict) or set(found) != {"version", "tpm", "nvram"}:
        raise FieldError(field="body", expected="a map of version, tpm, nvram", got=repr(found))
    if found["version"] != LAYOUT_VERSION:
        raise FieldError(field="version", expected=str(LAYOUT_VERSION), got=repr(found["version"]))
    if found["tpm"] not in TPM_FAMILIES:
        raise FieldError(field="tpm", expected=" or ".join(TPM_FAMILIES), got=repr(found["tpm"]))
    nvram = found["nvram"]
    if not isinstance(nvram, dict) or not all(
        isinstance(name, str) and isinstance(blob, bytes) for name, blob in nvram.items()
    ):
        raise FieldError(field="nvram", expected="a map of names to bytes", got=repr(nvram))
    return VtpmState(found["tpm"], MappingProxyType(nvram))


@hookimpl
def xsave_register_handlers(register: Callable[[Handler], None]) -> None:
    register(VtpmHandler())
