"""Where a guest's TPM lies on its host: in a folder for each guest, named by its uuid.

As when swtpm was started with ``--tpmstate dir=/var/lib/swtpm/UUID``; the environment variable
``XSAVE_VTPM_FOLDER`` names another folder of such folders. swtpm's names of files: family,
number of the TPM, kind of blob.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xsave import XsaveError

from . import VtpmState

FOLDER = "/var/lib/swtpm"
VARIABLE = "XSAVE_VTPM_FOLDER"
FAMILIES = {"2.0": "tpm2-00", "1.2": "tpm-00"}
BLOBS = {"permanent": "permall", "volatile": "volatilestate", "savestate": "savestate"}
MAX_BYTES = 16 << 20  # swtpm's are below 100 KiB
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def folder_of(details: Mapping[str, Any]) -> Path | None:
    """:param details: of a domain. :returns: None for one that has no uuid."""
    uuid = details.get("uuid")
    if not isinstance(uuid, str) or not _UUID.fullmatch(uuid):
        return None
    return Path(os.environ.get(VARIABLE) or FOLDER, uuid)


def read_state(folder: Path) -> VtpmState | None:
    """:returns: None where there is no TPM."""
    for family, prefix in FAMILIES.items():
        files = {blob: folder / f"{prefix}.{name}" for blob, name in BLOBS.items()}
        if files["permanent"].is_file():  # the one that each TPM has
            there = {blob: file for blob, file in files.items() if file.is_file()}
            return VtpmState(family, {blob: _read(file) for blob, file in there.items()})
    return None


def write_state(folder: Path, state: VtpmState) -> None:
    """In place of what was there.

    :raises XsaveError: it cannot be written, or has a blob that swtpm does not know.
    """
    if unknown := sorted(state.nvram.keys() - BLOBS.keys()):
        raise XsaveError(f"vtpm.state: swtpm keeps no {unknown[0]!r}")
    prefix = FAMILIES[state.tpm]
    files = {f"{prefix}.{BLOBS[blob]}": contents for blob, contents in state.nvram.items()}
    every = (f"{one}.{name}" for one in FAMILIES.values() for name in BLOBS.values())
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, contents in files.items():
            _write(folder / name, contents)
        for name in every:  # volatile state of an earlier day would be wrong
            if name not in files:
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise XsaveError(f"vtpm.state: {folder}: {error.strerror}") from None


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            contents = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise XsaveError(f"vtpm.state: {file}: {error.strerror}") from None
    if len(contents) > MAX_BYTES:
        raise XsaveError(f"vtpm.state: {file} has more than {MAX_BYTES} bytes")
    return contents


def _write(file: Path, contents: bytes) -> None:
    """Whole or not at all."""
    part = file.with_name(f"{file.name}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as opened:
        opened.write(contents)
        opened.flush()
        os.fsync(fd)
    part.replace(file)
