"""Numbers as the reasons of rulings say them."""

from __future__ import annotations


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def mib(size_bytes: float) -> str:
    return f"{_number(size_bytes / 2**20)} MiB"


def mib_per_s(bytes_per_s: float) -> str:
    return f"{_number(bytes_per_s / 2**20)} MiB/s"


def percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def pages(number: int) -> str:
    return "1 page" if number == 1 else f"{number} pages"


def iterations(number: int) -> str:
    return "1 iteration" if number == 1 else f"{number} iterations"


def _number(value: float) -> str:
    """One digit after the point, or, where that would say nothing, three that count."""
    return f"{value:.1f}" if value >= 1 or value == 0 else f"{value:.3g}"
