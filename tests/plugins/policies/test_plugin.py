"""The plugin as the manager sees it, and what holds for the options of every policy."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import PluginManager, PrecopyPolicy, UsageError
from xsave_plugins.policies.downtime import DowntimePolicy
from xsave_plugins.policies.fixed import FixedPolicy
from xsave_plugins.policies.slowing import SlowingPolicy

DOCUMENT = Path(__file__).parents[3] / "docs" / "policies.md"
POLICIES: dict[str, PrecopyPolicy] = {
    policy.name: policy for policy in (FixedPolicy(), DowntimePolicy(), SlowingPolicy())
}
OPTIONS = {
    "fixed": ("iterations", "dirty"),
    "downtime": ("target", "fixed", "max", "give_up"),
    "slowing": ("target", "fixed", "max", "give_up", "min"),
}


def test_the_entry_point_offers_the_three_policies() -> None:
    manager = PluginManager()
    manager.load_entry_point(EntryPoint("policies", "xsave_plugins.policies", "xsave"))
    assert manager.failed == []
    assert manager.policies.names() == sorted(POLICIES) == sorted(OPTIONS)


def test_it_is_installed(manager: PluginManager) -> None:
    assert set(OPTIONS) <= set(manager.policies.names())


@pytest.mark.parametrize("name", POLICIES)
def test_a_configured_policy_is_a_new_one_of_the_same_kind(name: str) -> None:
    made = POLICIES[name].configure({})
    assert made is not POLICIES[name]
    assert type(made) is type(POLICIES[name])


@pytest.mark.parametrize("name", POLICIES)
def test_an_unknown_option_lists_those_that_there_are(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        POLICIES[name].configure({"speed": "9"})
    known = ", ".join(OPTIONS[name])
    assert str(caught.value) == f"policy {name} has no option 'speed'; it has: {known}"


@pytest.mark.parametrize(
    ("name", "option", "text", "expected"),
    [
        ("fixed", "iterations", "0", "a whole number from 1 on"),
        ("fixed", "iterations", "five", "a whole number from 1 on"),
        ("fixed", "iterations", "\N{ARABIC-INDIC DIGIT FIVE}", "a whole number from 1 on"),
        ("fixed", "dirty", "-1", "a whole number from 0 on"),
        ("fixed", "dirty", "1_0", "a whole number from 0 on"),
        ("downtime", "target", "300", "a time such as 300ms, 0.5s or 50us"),
        ("downtime", "target", "1 s", "a time such as 300ms, 0.5s or 50us"),
        ("downtime", "fixed", "-1ms", "a time such as 300ms, 0.5s or 50us"),
        ("downtime", "max", "", "a whole number from 1 on"),
        ("downtime", "give_up", "maybe", "stop or abort"),
        ("slowing", "min", "0", "a share from 0.01 to 1, such as 0.2"),
        ("slowing", "min", "1.1", "a share from 0.01 to 1, such as 0.2"),
        ("slowing", "min", "20%", "a share from 0.01 to 1, such as 0.2"),
        ("slowing", "give_up", "STOP", "stop or abort"),
    ],
)
def test_a_value_out_of_range_says_what_was_expected(
    name: str, option: str, text: str, expected: str
) -> None:
    with pytest.raises(UsageError) as caught:
        POLICIES[name].configure({option: text})
    assert str(caught.value) == f"policy {name}: {option} is {text!r}, expected {expected}"


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(sorted(OPTIONS)),
    option=st.sampled_from(sorted({one for names in OPTIONS.values() for one in names})),
    text=st.one_of(st.text(max_size=9), st.from_regex(r"[0-9.]{1,12}(ms|us|s)?", fullmatch=True)),
)
def test_any_text_is_understood_or_a_usage_error(name: str, option: str, text: str) -> None:
    try:
        POLICIES[name].configure({option: text})
    except UsageError as error:
        assert str(error).startswith(f"policy {name}")


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_in_the_document(name: str) -> None:
    section = DOCUMENT.read_text().partition(f"\n## `{name}`")[2].partition("\n## ")[0]
    for option in OPTIONS[name]:
        assert f"`{option}`" in section, option
