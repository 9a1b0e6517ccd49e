"""``xsave-libxl-helper`` as libxl starts it: :mod:`.save_helper`, which says what it does."""

from __future__ import annotations

from xsave import start_lightly


def main() -> int:
    start_lightly()
    from .save_helper import main as serve_libxl  # the rest is loaded after that

    return serve_libxl()
