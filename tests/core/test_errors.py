"""The table of exit codes is the truth, and every error says what it is about."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from xsave import errors


def classes() -> dict[str, type[errors.XsaveError]]:
    return {
        name: kind
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.XsaveError)
    }


def documented() -> dict[str, int]:
    rows = re.findall(r"^(\w+Error)\s+(\d+)\s", errors.__doc__ or "", re.MULTILINE)
    return {name: int(code) for name, code in rows}


def test_the_documented_exit_codes_are_those_of_the_classes() -> None:
    for name, code in documented().items():
        assert classes()[name].exit_code == code, name


def test_a_class_that_is_not_in_the_table_has_the_code_of_its_base() -> None:
    table = documented()
    assert "XsaveError" in table
    for name, kind in classes().items():
        nearest = next(base.__name__ for base in kind.__mro__ if base.__name__ in table)
        assert kind.exit_code == table[nearest], name


def test_the_codes_differ_from_each_other() -> None:
    codes = [value for name, value in vars(errors).items() if name.startswith("EXIT_")]
    assert len(codes) == len(set(codes))
    assert set(documented().values()) < set(codes)


def test_every_error_is_public_and_says_what_it_means() -> None:
    import xsave

    for name, kind in classes().items():
        assert name in xsave.__all__
        assert kind.__doc__


PLACE: Any = {"what": "record header", "offset": 0x1F0, "expected": "8 bytes", "got": "3 bytes"}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            errors.FormatError(**PLACE),
            "record header at offset 0x1f0: expected 8 bytes, got 3 bytes",
        ),
        (
            errors.TruncatedError(**PLACE),
            "the image is cut: record header at offset 0x1f0: expected 8 bytes, got 3 bytes",
        ),
        (
            errors.DamageError(what="pfns 0x1-0x2", offset=16, expected="ab", got="cd"),
            "pfns 0x1-0x2 at offset 0x10 is damaged: expected checksum ab, got cd",
        ),
        (
            errors.FieldError(field="count", expected="2", got="3"),
            "count: expected 2, got 3",
        ),
        (
            errors.RecordError(record="xen.hvm.params", offset=0x2F40, reason="count: odd"),
            "xen.hvm.params at offset 0x2f40: count: odd",
        ),
        (
            errors.DuplicateNameError(kind="codec", name="zip", first="a (x 1)", second="b (y 2)"),
            "codec 'zip' is offered twice: by a (x 1) and by b (y 2)",
        ),
        (
            errors.BrokenOffError(name="vm", nr_checkpoints=1, reason="it is cut"),
            "the stream broke off after 1 checkpoint: it is cut; vm is complete as of the last "
            "one, and paused: resume it only if the source does not run any more",
        ),
        (
            errors.MissingPluginError(record="a.b", plugin="p", reason="plugin p is not in use"),
            "a.b is mandatory: plugin p is not in use",
        ),
        (
            errors.UnknownNameError(kind="plugin", name="x", known=["a", "b"]),
            "no plugin is named 'x'; known: a, b",
        ),
        (
            errors.UnknownNameError(kind="plugin", name="x", known=[]),
            "no plugin is named 'x'; known: none",
        ),
    ],
)
def test_the_text_says_what_where_expected_and_got(error: errors.XsaveError, text: str) -> None:
    assert str(error) == text
