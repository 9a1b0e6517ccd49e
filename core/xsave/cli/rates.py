"""Rates and amounts as they are given to options: ``40M`` is 40 MiB, for a second."""

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
