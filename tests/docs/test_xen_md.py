"""What docs/xen.md shows is what xsave takes."""

from __future__ import annotations

import re
from pathlib import Path

import xsave
from xsave_plugins.xen_host.helper_settings import (
    CODEC_VARIABLE,
    FILE_VARIABLE,
    STREAM_VARIABLE,
    load_settings,
)

PAGE = Path(__file__).parents[2] / "docs" / "xen.md"


def test_the_settings_shown_are_taken_and_mean_something(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    file = tmp_path / "helper.toml"
    file.write_text(shown)
    settings = load_settings({}, file)
    manager = xsave.build_manager()
    assert settings.stream == "native"
    assert settings.codec is not None
    manager.choose_codec(settings.codec)
    manager.choose_policy(settings.policy)
    manager.handler_table(settings.plugins, settings.options)


def test_each_variable_is_told() -> None:
    text = PAGE.read_text()
    for name in (CODEC_VARIABLE, FILE_VARIABLE, STREAM_VARIABLE):
        assert f"`{name}`" in text
