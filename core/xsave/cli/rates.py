"""Rates and times as they are given to options: ``40M`` is 40 MiB, for a second; ``200ms``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    _IntType = click.ParamType[int]
else:
    _IntType = click.ParamType  # not generic before click 8.4

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_RATE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)([KMG]?)(?:i?B)?(?:/s)?")


class Rate(_IntType):
    """Bytes a second, at least 1."""

    name = "rate"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        found = _RATE.fullmatch(str(value).strip())
        rate = int(float(found[1]) * _UNITS[found[2]]) if found is not None else 0
        if rate < 1:
            self.fail(f"{value!r} is no rate such as 40M, 1.5G or 512K (bytes a second)")
        return rate


RATE = Rate()


_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_PERIOD = re.compile(r"(\d{1,7}(?:\.\d{1,6})?)(us|ms|s)")

if TYPE_CHECKING:
    _FloatType = click.ParamType[float]
else:
    _FloatType = click.ParamType


class Period(_FloatType):
    """Seconds, given with their unit."""

    name = "period"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        found = _PERIOD.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no time with its unit such as 200ms, 1.5s or 500us")
        return float(found[1]) * _SECONDS[found[2]]


PERIOD = Period()


class Rates(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """Several, with commas between them."""

    name = "rates"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        if isinstance(value, list):
            return value
        return [RATE.convert(part, param, ctx) for part in str(value).split(",")]


RATES = Rates()
