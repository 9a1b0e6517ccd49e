"""What ``sim:`` addresses say: ``TYPE?option=value&option=value``."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from xsave import UsageError, frozen

from .abilities import CPUS, MAX_TMEM_POOLS, TMEM, Lacks

TYPES = ("pv", "pvh", "hvm")
WORKLOADS = ("idle", "sequential", "random", "hungry", "ballooning")
CLOCKS = ("real", "manual", "reads")
_ID = re.compile(r"[0-9a-f]{32}")

PAGE_BYTES = 4096
MIN_MEMORY, MAX_MEMORY = 4 << 20, 256 << 30
MAX_VCPUS = 32  # as many as shared_info has room for
DEFAULT_MEMORY = 64 << 20
DEFAULT_DIRTY = 40 << 20  # bytes a second
TMEM_POOLS = ("persistent", "ephemeral", "shared")
TMEM_CODECS = ("zlib",)
DEFAULT_TMEM_RATE = 500  # operations a second

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SIZE = re.compile(r"(\d{1,15})([KMG]?)(?:i?B)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

T = TypeVar("T")


@frozen(kw_only=True)
class SimAddress:
    """:ivar type: None where the address leaves it open.
    :ivar memory: bytes; :ivar resident: bytes of it that have contents at the start.
    :ivar dirty: bytes a second that the workload writes to, counted in whole pages.
    :ivar vcpus: 1 for a new guest, as the image says for one to be restored.
    :ivar online: vcpus that run; those above are offline.
    :ivar host_memory: bytes of a host that this address is the first to name; the three after
        it: what that host lacks.
    :ivar prove: keep fingerprints of guests that leave and arrive.
    :ivar at: path of the socket at which another process serves hosts; None for this one's.
    :ivar id: of one guest, which no other ever has.
    :ivar tmem: pages that the guest has put there; 0 for no client of tmem.
    :ivar tmem_codec: with which its host holds such pages compressed, "" for as they are.
    :ivar tmem_ids: bits of an object id.
    :ivar tmem_rate: operations a second, unless it is idle.
    """

    type: str | None = None
    memory: int = DEFAULT_MEMORY
    resident: int = DEFAULT_MEMORY
    vcpus: int | None = None
    online: int | None = None
    workload: str = "idle"
    dirty: int = DEFAULT_DIRTY
    seed: int = 1
    host: str | None = None
    host_memory: int | None = None
    host_tmem: str = "yes"
    host_tmem_pools: int = MAX_TMEM_POOLS
    host_cpu: str = "same"
    name: str | None = None
    clock: str | None = None
    prove: bool = False
    at: str | None = None
    id: str | None = None
    tmem: int = 0
    tmem_pools: tuple[str, ...] = ("persistent",)
    tmem_codec: str = ""
    tmem_ids: int = 192
    tmem_rate: int = 0

    @property
    def lacks(self) -> Lacks:
        return Lacks(self.host_tmem, self.host_tmem_pools, self.host_cpu)


def parse_size(text: str) -> int:
    """``64M``, ``2G``, ``512K`` or plain bytes, powers of two."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError("a size such as 64M, 2G or 512K")
    return int(found[1]) * _UNITS[found[2]]


def _memory(text: str) -> int:
    size = parse_size(text)
    if size % PAGE_BYTES or not MIN_MEMORY <= size <= MAX_MEMORY:
        raise ValueError("4M to 256G, whole pages of 4K")
    return size


def _resident(text: str) -> int:
    size = parse_size(text)
    if size % PAGE_BYTES:
        raise ValueError("whole pages of 4K")
    return size


def _rate(text: str) -> int:
    rate = parse_size(text.removesuffix("/s"))
    if rate > 64 << 30:
        raise ValueError("a rate such as 40M/s, at most 64G/s")
    return rate


def _number(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,19}", text) or not lowest <= int(text) <= highest:
            raise ValueError(f"a number from {lowest} to {highest}")
        return int(text)

    return parse


def _one_of(*known: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(" or ".join(known))
        return text

    return parse


def _some_of(*known: str) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        return tuple(map(_one_of(*known), text.split(",")))

    return parse


def _name(text: str) -> str:
    if not is_name(text):
        raise ValueError("letters, digits, dots, dashes and underscores")
    return text


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("the path of a socket")
    return text


def _guest_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError("32 hexadecimal digits")
    return text


def is_name(text: str) -> bool:
    """Whether a guest or a host can be called that."""
    return _NAME.fullmatch(text) is not None


def _yes_or_no(text: str) -> bool:
    return _one_of("yes", "no")(text) == "yes"


OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "memory": _memory,
    "resident": _resident,
    "vcpus": _number(1, MAX_VCPUS),
    "online": _number(1, MAX_VCPUS),
    "workload": _one_of(*WORKLOADS),
    "dirty": _rate,
    "seed": _number(0, (1 << 63) - 1),
    "host": _name,
    "host_memory": _memory,
    "host_tmem": _one_of(*TMEM),
    "host_tmem_pools": _number(1, MAX_TMEM_POOLS),
    "host_cpu": _one_of(*CPUS),
    "name": _name,
    "clock": _one_of(*CLOCKS),
    "prove": _yes_or_no,
    "at": _path,
    "id": _guest_id,
    "tmem": _number(1, 1 << 20),
    "tmem_pools": _some_of(*TMEM_POOLS),
    "tmem_codec": _one_of(*TMEM_CODECS),
    "tmem_ids": lambda text: int(_one_of("64", "192")(text)),
    "tmem_rate": _number(0, 1_000_000),
}


def parse_address(address: str) -> SimAddress:
    """:raises UsageError: says what there is."""
    kind, _, query = address.partition("?")
    if kind and kind not in TYPES:
        raise UsageError(f"sim: no guest type {kind!r}; known: {', '.join(TYPES)}")
    given: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        option, _, text = part.partition("=")
        if option not in OPTIONS:
            raise UsageError(f"sim: no option {option!r}; known: {', '.join(OPTIONS)}")
        if option in given:
            raise UsageError(f"sim: option {option} is given twice")
        try:
            given[option] = OPTIONS[option](text)
        except ValueError as error:
            raise UsageError(f"sim: {option}: expected {error}, got {text!r}") from None
    given.setdefault("workload", "random" if given.get("dirty") else "idle")
    given.setdefault("resident", given.get("memory", DEFAULT_MEMORY))
    given.setdefault("tmem_rate", 0 if given["workload"] == "idle" else DEFAULT_TMEM_RATE)
    found = SimAddress(type=kind or None, **given)
    if found.resident > found.memory:
        raise UsageError("sim: resident: expected at most memory, got more")
    if (found.online or 1) > (found.vcpus or 1):
        raise UsageError("sim: online: expected at most vcpus, got more")
    return found


def new_id() -> str:
    return uuid.uuid4().hex


def locator(guest_id: str, path: str) -> str:
    """An address by which a guest of another process is found, and no other.

    :param path: of the socket there.
    """
    return f"?id={guest_id}&at={os.path.abspath(path)}"  # noqa: PTH100 - as text


def split_socket(address: str) -> tuple[str, str | None]:
    """:returns: the address as the process there understands it, and the path of its socket,
    None for hosts of this process.
    """
    kind, mark, query = address.partition("?")
    parts = query.split("&")
    at = [part.removeprefix("at=") for part in parts if part.startswith("at=")]
    rest = "&".join(part for part in parts if not part.startswith("at="))
    return kind + mark + rest, at[0] if at else None
