"""The program that libxl runs to save and restore: ours, set in one way or another, or Xen's."""

from __future__ import annotations

OURS = "LIBXL_SAVE_HELPER=/opt/xsave/bin/xsave-libxl-helper"
# A variable assignment for the shell, before xl; nothing for Xen's own.
HELPERS = {
    "ours": OURS,
    "stock": "",
    "native": f"{OURS} XSAVE_HELPER_STREAM=native XSAVE_HELPER_CODEC=zstd:1",
}
