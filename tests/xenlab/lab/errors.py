"""What goes wrong in the laboratory itself, as told from a failed test."""

from __future__ import annotations


class LabError(Exception):
    """The laboratory could not do what was asked; the text says why."""
