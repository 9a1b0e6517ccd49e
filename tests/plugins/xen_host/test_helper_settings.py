from __future__ import annotations

from pathlib import Path

import pytest

from xsave import UsageError
from xsave_plugins.xen_host.helper_settings import HelperSettings, load_settings

WHOLE = """
stream = "native"
policy = "downtime:limit_ms=500"
plugins = ["xen", "hvm"]

[native]
codec = "zstd:1"
checksum = "sha256"
deltas = false

[options]
"tmem.pages" = "plain"
"""


def of(text: str, folder: Path, **environment: str) -> HelperSettings:
    file = folder / "helper.toml"
    file.write_text(text)
    return load_settings(environment, file)


def test_without_a_file_the_stream_is_that_of_every_xen(tmp_path: Path) -> None:
    assert load_settings({}, tmp_path / "none") == HelperSettings()
    assert HelperSettings().format == "libxc-v3"


def test_each_setting_has_its_place(tmp_path: Path) -> None:
    found = of(WHOLE, tmp_path)
    assert found == HelperSettings(
        "native", "zstd:1", "sha256", False, "downtime:limit_ms=500", ("xen", "hvm"),
        {"tmem.pages": "plain"},
    )  # fmt: skip
    assert found.format == "native"


def test_who_runs_xl_may_ask_for_something_else_this_once(tmp_path: Path) -> None:
    found = of(WHOLE, tmp_path, XSAVE_HELPER_STREAM="libxc", XSAVE_HELPER_CODEC="lz4")
    assert (found.stream, found.codec) == ("libxc", "lz4")
    assert found.checksum == "sha256"
    other = tmp_path / "other.toml"
    other.write_text('stream = "native"')
    assert of("", tmp_path, XSAVE_HELPER_CONFIG=str(other)).stream == "native"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("stream = ", "helper.toml: no TOML"),
        ('stream = "xl"', "helper.toml: stream: expected libxc or native, got 'xl'"),
        ("stream = 1", "stream: expected a text, got 1"),
        ("steam = 1", "helper.toml: steam: expected stream, policy, plugins, native, options"),
        ("[native]\ncodecs = 1", r"native\.codecs: expected codec, checksum, deltas"),
        ("[native]\ndeltas = 1", "deltas: expected true or false, got 1"),
        ("plugins = [1]", "plugins: expected texts"),
        ("[options]\n'a.b' = 1", "options: expected texts"),
        ("native = 1", "native: expected a table"),
        ("#" * (1 << 20) + "\n", "more than 1048576 bytes"),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=match):
        of(text, tmp_path)


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: No such file"):
        load_settings({"XSAVE_HELPER_CONFIG": str(tmp_path / "nowhere")})


def test_a_word_that_the_environment_cannot_say_is_refused() -> None:
    with pytest.raises(UsageError, match="XSAVE_HELPER_STREAM: expected libxc or native"):
        load_settings({"XSAVE_HELPER_STREAM": "zip"}, Path("/nonexistent"))
