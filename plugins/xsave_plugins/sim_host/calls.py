"""What a client may ask of simulated hosts in another process: the contract of domains and
of their facets, call by call, and what each takes.

The server does nothing that is not listed here, and nothing with arguments of another kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xsave import frozen

from .wire import WireError


def _is_number(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _is_oid(item: Any) -> bool:
    return isinstance(item, tuple) and 1 <= len(item) <= 3 and all(map(_is_word, item))


def _is_word(item: Any) -> bool:
    return _is_number(item) and item >= 0


def _is_array(item: Any, kind: type, dimensions: int) -> bool:
    return isinstance(item, np.ndarray) and item.dtype == kind and item.ndim == dimensions


# One letter for each argument.
KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "e": ("an array of u64", lambda item: _is_array(item, np.uint64, 1)),
    "p": ("pages", lambda item: _is_array(item, np.uint8, 2)),
    "i": ("a number from 0 on", _is_word),
    "f": ("a number", lambda item: _is_number(item) or isinstance(item, float)),
    "b": ("true or false", lambda item: isinstance(item, bool)),
    "s": ("text", lambda item: isinstance(item, str)),
    "d": ("bytes", lambda item: isinstance(item, bytes)),
    "o": ("an object id", _is_oid),
    "u": ("a uuid of two words", lambda item: _is_oid(item) and len(item) == 2),
    "n": ("a number or null", lambda item: item is None or _is_word(item)),
    "h": (
        "handles",
        lambda item: (
            isinstance(item, tuple)
            and all(len(one) == 2 and _is_oid(one[0]) and _is_word(one[1]) for one in item)
        ),
    ),
    "c": (
        "pieces of bytes",
        lambda item: isinstance(item, tuple) and all(isinstance(one, bytes) for one in item),
    ),
    "m": ("a map", lambda item: isinstance(item, dict)),
}


@frozen
class Call:
    """:ivar takes: a letter of :data:`KINDS` for each argument.
    :ivar keyword: the last argument has this name.
    :ivar is_property: is looked at, not called.
    """

    takes: str = ""
    keyword: str = ""
    is_property: bool = False

    def check(self, verb: str, arguments: Sequence[Any]) -> None:
        """:raises WireError: they are not what it takes."""
        if len(arguments) != len(self.takes):
            raise WireError(f"{verb}: expected {len(self.takes)} arguments, got {len(arguments)}")
        for number, (letter, argument) in enumerate(zip(self.takes, arguments, strict=True), 1):
            what, fits = KINDS[letter]
            if not fits(argument):
                raise WireError(
                    f"{verb}: argument {number}: expected {what}, got a {type(argument).__name__}"
                )


_NOTHING, _BYTES, _LOOK = Call(), Call("d"), Call(is_property=True)

HOSTS: Mapping[str, Call] = {
    "open": Call("s"), "create": Call("sm"), "find": Call("s"), "host_of": Call("s"),
    "guests": _NOTHING, "proofs": _NOTHING, "history": Call("s"),
}  # fmt: skip
# Of one domain; those of facets have the facet's name before a dot.
DOMAIN: Mapping[str, Call] = {
    "info": _NOTHING, "pause": _NOTHING, "resume": _NOTHING, "destroy": _NOTHING,
    "page_types": Call("e"), "read_pages": Call("e"), "populate": Call("e"),
    "depopulate": Call("e"), "write_pages": Call("ep"), "start_dirty_log": _NOTHING,
    "read_dirty_log": Call("b", "clean"), "stop_dirty_log": _NOTHING, "throttle": Call("f"),
    "is_at_rest": _NOTHING,
    "fingerprint": _NOTHING, "has_facet": Call("s"), "step": Call("f"),
}  # fmt: skip
FACETS: Mapping[str, Mapping[str, Call]] = {
    "x86": {
        "tsc_info": _NOTHING, "set_tsc_info": Call("iiii"), "cpuid_policy": _NOTHING,
        "set_cpuid_policy": _BYTES, "msr_policy": _NOTHING, "set_msr_policy": _BYTES,
    },
    "pv": {
        "guest_width": _LOOK, "set_guest_width": Call("i"), "m2p": Call("e"), "p2m": Call("e"),
        "p2m_frame_pfns": _NOTHING, "set_p2m_frame_pfns": Call("ei"),
        "shared_info_mfn": _NOTHING, "set_page_types": Call("e"), "store_and_console": _NOTHING,
        "online_vcpus": _NOTHING, "vcpu_state": Call("is"), "set_vcpu_state": Call("isd"),
        "shared_info": _NOTHING, "set_shared_info": _BYTES,
    },
    "hvm": {
        "params": _NOTHING, "set_param": Call("ii"), "context": _NOTHING, "set_context": _BYTES,
    },
    "device_model": {
        "emulator": _LOOK, "state": _NOTHING, "load": Call("id"), "xenstore_data": _NOTHING,
        "load_xenstore_data": Call("id"),
    },
    "tmem": {
        "client": _NOTHING, "pools": _NOTHING, "begin": Call("b", "live"), "handles": Call("i"),
        "read_pages": Call("ih"), "held_with": _NOTHING, "voids": _NOTHING, "end": _NOTHING,
        "create_client": Call("iiiii"), "create_pool": Call("iiu"), "accepts": Call("s"),
        "restore_pages": Call("ihcs"), "restore_flush": Call("ion"),
    },
}  # fmt: skip


def find_call(verb: str) -> Call:
    """:raises WireError: there is no such verb."""
    facet, dot, method = verb.rpartition(".")
    table = FACETS.get(facet, {}) if dot else {**HOSTS, **DOMAIN}
    if method not in table:
        raise WireError(f"no verb {verb[:40]!r}")
    return table[method]
