"""What users say of a policy, ``NAME:OPTION=VALUE``, from text to values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from xsave import Decision, UsageError, frozen

_TIME = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(us|ms|s)", re.ASCII)
_SECONDS_PER = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_WHOLE = re.compile(r"\d{1,9}", re.ASCII)
_SHARE = re.compile(r"\d(?:\.\d{1,9})?", re.ASCII)

LOWEST_SHARE = 0.01  # a guest left nothing would never get to the point where it can pause


@frozen
class Option:
    """One option of a policy.

    :ivar name: as users write it.
    :ivar argument: of the policy's class.
    :ivar read: text to value; None for a text that is not one.
    :ivar expected: for messages: "a time such as 300ms".
    """

    name: str
    argument: str
    read: Callable[[str], object | None]
    expected: str


def read_options(
    policy: str, known: tuple[Option, ...], given: Mapping[str, str]
) -> dict[str, Any]:
    """:returns: arguments for the policy's class, of the options given.
    :raises UsageError: there is no such option, or its value is not one.
    """
    by_name = {option.name: option for option in known}
    arguments = {}
    for name, text in given.items():
        option = by_name.get(name)
        if option is None:
            raise UsageError(
                f"policy {policy} has no option {name!r}; it has: {', '.join(by_name)}"
            )
        value = option.read(text)
        if value is None:
            raise UsageError(f"policy {policy}: {name} is {text!r}, expected {option.expected}")
        arguments[option.argument] = value
    return arguments


def time_option(name: str, argument: str) -> Option:
    """Seconds, from text with a unit: a bare number could be either of two."""
    return Option(name, argument, _read_time, "a time such as 300ms, 0.5s or 50us")


def whole_option(name: str, argument: str, lowest: int) -> Option:
    def read(text: str) -> int | None:
        value = int(text) if _WHOLE.fullmatch(text) else None
        return value if value is not None and value >= lowest else None

    return Option(name, argument, read, f"a whole number from {lowest} on")


def share_option(name: str, argument: str) -> Option:
    """Of the guest's processor time, 1.0 for all."""
    return Option(name, argument, _read_share, f"a share from {LOWEST_SHARE} to 1, such as 0.2")


def give_up_option(name: str, argument: str) -> Option:
    decisions = {"stop": Decision.STOP_AND_COPY, "abort": Decision.ABORT}
    return Option(name, argument, decisions.get, "stop or abort")


def _read_time(text: str) -> float | None:
    found = _TIME.fullmatch(text)
    return float(found[1]) * _SECONDS_PER[found[2]] if found else None


def _read_share(text: str) -> float | None:
    value = float(text) if _SHARE.fullmatch(text) else 0.0
    return value if LOWEST_SHARE <= value <= 1 else None
