"""Amounts as people read them."""

from __future__ import annotations


def size(size_bytes: float) -> str:
    """``25149291`` as ``24.0 MiB``."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size_bytes /= 1024
        if size_bytes < 1024:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1024:.1f} TiB"


def ms(seconds: float) -> str:
    """``0.0123`` as ``12.3 ms``, from ten seconds on in seconds."""
    return f"{seconds * 1e3:.1f} ms" if seconds < 10 else f"{seconds:.1f} s"


def percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")
