"""What a person may ask of ``xsave-libxl-helper``: libxl runs it, so it has no command line.

A file, for all that is saved and restored on this host, and environment variables of whoever
runs ``xl``, for one time. docs/xen.md has the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, field

from xsave import UsageError, frozen

FILE = Path("/etc/xsave/helper.toml")
FILE_VARIABLE, STREAM_VARIABLE = "XSAVE_HELPER_CONFIG", "XSAVE_HELPER_STREAM"
CODEC_VARIABLE = "XSAVE_HELPER_CODEC"
LIBXC, NATIVE = "libxc", "native"
STREAMS = (LIBXC, NATIVE)
MAX_BYTES = 1 << 20


@frozen
class HelperSettings:
    """:ivar stream: what is written: ``libxc``, which every Xen reads, or ``native``.
    :ivar codec, checksum, deltas: of a native stream, as :func:`xsave.run` takes them.
    :ivar policy: decides when a guest that runs is paused.
    :ivar plugins: whose records go along, None for all; :ivar options: of plugins.
    """

    stream: str = LIBXC
    codec: str | None = None
    checksum: str = ""
    deltas: bool | None = None
    policy: str = "fixed"
    plugins: tuple[str, ...] | None = None
    options: Mapping[str, str] = field(factory=dict)

    @property
    def format(self) -> str:
        """That the stream is written in."""
        return "native" if self.stream == NATIVE else "libxc-v3"


def load_settings(environment: Mapping[str, str], file: Path = FILE) -> HelperSettings:
    """:param file: need not be there, unless the environment names another one.

    :raises UsageError: what is wrong with which of the two.
    """
    named = environment.get(FILE_VARIABLE)
    settings = _of_file(Path(named) if named else file, must_exist=bool(named))
    if stream := environment.get(STREAM_VARIABLE):
        _check_stream(stream, STREAM_VARIABLE)
        settings = evolve(settings, stream=stream)
    if codec := environment.get(CODEC_VARIABLE):
        settings = evolve(settings, codec=codec)
    return settings


def _of_file(file: Path, *, must_exist: bool) -> HelperSettings:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not must_exist:
            return HelperSettings()
        raise UsageError(f"{file}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"{file}: more than {MAX_BYTES} bytes")
    import tomllib  # most hosts have no such file

    try:
        found = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{file}: no TOML: {error}") from None
    return _of_table(found, str(file))


def _of_table(table: Mapping[str, Any], where: str) -> HelperSettings:
    _check_keys(table, ("stream", "policy", "plugins", "native", "options"), where, "")
    native = _get(table, "native", dict, {}, where)
    _check_keys(native, ("codec", "checksum", "deltas"), where, "native.")
    stream = _get(table, "stream", str, LIBXC, where)
    _check_stream(stream, f"{where}: stream")
    plugins = _get(table, "plugins", list, None, where)
    options = _get(table, "options", dict, {}, where)
    for what, values in (("plugins", plugins or ()), ("options", options.values())):
        if not all(isinstance(value, str) for value in values):
            raise UsageError(f"{where}: {what}: expected texts")
    return HelperSettings(
        stream=stream,
        codec=_get(native, "codec", str, None, where),
        checksum=_get(native, "checksum", str, "", where),
        deltas=_get(native, "deltas", bool, None, where),
        policy=_get(table, "policy", str, HelperSettings().policy, where),
        plugins=None if plugins is None else tuple(plugins),
        options=options,
    )


def _check_keys(
    table: Mapping[str, Any], known: tuple[str, ...], where: str, prefix: str
) -> None:  # fmt: skip
    for key in table:
        if key not in known:
            raise UsageError(f"{where}: {prefix}{key}: expected {', '.join(known)}")


def _get(table: Mapping[str, Any], key: str, kind: type, default: Any, where: str) -> Any:
    found = table.get(key, default)
    if found is not default and not isinstance(found, kind):
        words = {str: "a text", list: "a list", dict: "a table", bool: "true or false"}
        raise UsageError(f"{where}: {key}: expected {words[kind]}, got {found!r}")
    return found


def _check_stream(stream: str, where: str) -> None:
    if stream not in STREAMS:
        raise UsageError(f"{where}: expected {' or '.join(STREAMS)}, got {stream!r}")
