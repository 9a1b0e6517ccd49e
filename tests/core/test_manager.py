"""Plugins are found, loaded one by one, and cost only themselves when they are broken."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xsave import (
    CONTRACT_VERSION,
    Buffer,
    Codec,
    DuplicateNameError,
    EmptyHandler,
    Handler,
    ImageInfo,
    Owner,
    Phase,
    PluginError,
    PluginInfo,
    PluginManager,
    PluginOption,
    RecordType,
    StreamCheck,
    UnknownNameError,
    UsageError,
    build_manager,
    hookimpl,
)

CODEC_PLUGIN = """
    from xsave import Codec, PluginInfo, hookimpl

    PLUGIN = PluginInfo({plugin!r}, "for a test", (1, 1))

    class Squeeze(Codec):
        name = {codec!r}

        def compress(self, data, level):
            return data

        def decompress(self, data, size_bytes):
            return data

    @hookimpl
    def xsave_register_codecs(register):
        register(Squeeze())
"""


class Site:
    """A folder that looks like site-packages, with distributions of our making in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.searched = [str(folder)]

    def install(self, distribution: str, **sources: str) -> None:
        """One distribution, version 1.5, with a plugin module for each name."""
        lines = ["[xsave]"]
        for plugin, source in sources.items():
            module = f"fake_{distribution.replace('-', '_')}_{plugin}"
            (self.folder / f"{module}.py").write_text(textwrap.dedent(source))
            lines.append(f"{plugin} = {module}")
        info = self.folder / f"{distribution.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {distribution}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text("\n".join(lines))

    def entry_points(self, *, group: str) -> list[EntryPoint]:
        found = distributions(path=self.searched)
        return [entry for dist in found for entry in dist.entry_points.select(group=group)]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("xsave.manager.entry_points", made.entry_points)
    yield made
    for name in [name for name in sys.modules if name.startswith("fake_")]:
        del sys.modules[name]


class Mark(EmptyHandler):
    phase = Phase.END_OF_CHECKPOINT

    def __init__(
        self, name: str, *, before: Sequence[str] = (), version: int = 1, mandatory: bool = True
    ) -> None:
        self.name = name  # type: ignore[misc]  # handlers made by the dozen, for these tests only
        self.before = frozenset(before)  # type: ignore[misc]  # the same
        self.version = version  # type: ignore[misc]  # the same
        self.mandatory = mandatory  # type: ignore[misc]  # the same


class Plain(Codec):
    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]  # as above

    def compress(self, data: Buffer, level: int) -> Buffer:
        return data

    def decompress(self, data: Buffer, size_bytes: int) -> Buffer:
        return data


class Plugin:
    """A plugin that is an object, with handlers and codecs."""

    def __init__(
        self,
        name: str,
        *offers: Any,
        needs: Sequence[str] = (),
        contract: tuple[int, int] = (CONTRACT_VERSION, CONTRACT_VERSION),
        options: tuple[PluginOption, ...] = (),
    ) -> None:
        self.PLUGIN = PluginInfo(name, "for a test", contract, needs, options)
        self.offers = offers

    @hookimpl
    def xsave_register_handlers(self, register: Callable[[Handler], None]) -> None:
        for offer in self.offers:
            if not isinstance(offer, Codec):
                register(offer)

    @hookimpl
    def xsave_register_codecs(self, register: Callable[[Codec], None]) -> None:
        for offer in self.offers:
            if isinstance(offer, Codec):
                register(offer)


def codec_plugin(plugin: str, codec: str = "") -> str:
    return CODEC_PLUGIN.format(plugin=plugin, codec=codec or plugin)


# Loading what is installed.


def test_without_plugins_everything_is_empty() -> None:
    manager = build_manager([])
    assert manager.plugins == []
    assert manager.record_order() == []
    for registry in (manager.handlers, manager.formats, manager.codecs, manager.backends):
        assert registry.names() == []


def test_an_installed_plugin_is_listed_with_all_that_is_known_of_it(site: Site) -> None:
    site.install("dist-one", squeeze=codec_plugin("squeeze"))
    manager = build_manager()
    (status,) = manager.plugins
    assert (status.name, status.distribution, status.version) == ("squeeze", "dist-one", "1.5")
    assert status.module == "fake_dist_one_squeeze"
    assert status.error == ""
    assert status.info is not None and status.info.summary == "for a test"
    assert status.hooks == ["xsave_register_codecs"]
    assert status.provides == {"codec": ["squeeze"]}
    assert status.load_time_s > 0
    assert manager.failed == []
    entry = manager.codecs.get("squeeze")
    assert entry is not None and entry.owner == Owner("squeeze", "dist-one 1.5")


BROKEN = {
    "syntax": ("def (", "SyntaxError: invalid syntax"),
    "import": ("import no_such_module_here", "ModuleNotFoundError: No module named 'no_such"),
    "wordless": ("raise RuntimeError", "RuntimeError: no reason given"),
    "leaves": ("import sys; sys.exit('needs libfoo')", "SystemExit: needs libfoo"),
    "declines": (
        "from xsave import PluginError; raise PluginError('libfoo is not installed')",
        "libfoo is not installed",
    ),
    "no_info": ("", "it declares no PLUGIN"),
    "other_name": (codec_plugin("another"), "but calls itself 'another' (PLUGIN.name)"),
    "class": (
        codec_plugin("class").replace("Squeeze())", "Squeeze)"),
        "as a codec: expected an object of a class derived from Codec",
    ),
    "abstract": (
        codec_plugin("abstract").replace("def compress", "def squash"),
        "TypeError: Can't instantiate abstract class Squeeze",
    ),
    "nameless": (
        codec_plugin("nameless").replace("name = 'nameless'", "pass"),
        "the codec Squeeze has no name",
    ),
    "unknown_hook": (
        codec_plugin("unknown_hook").replace("xsave_register_codecs", "xsave_register_codex"),
        "PluginValidationError: unknown hook 'xsave_register_codex'",
    ),
    "unknown_argument": (
        codec_plugin("unknown_argument").replace("(register):", "(register, more):"),
        "PluginValidationError: Plugin 'unknown_argument' for hook 'xsave_register_codecs'",
    ),
    "half_way": (codec_plugin("half_way") + "\n        register(1 / 0)\n", "ZeroDivisionError"),
    "newer": (codec_plugin("newer").replace("(1, 1)", "(2, 3)"), "contract versions 2 to 3"),
    "older": (codec_plugin("older").replace("(1, 1)", "(0, 0)"), "contract versions 0 to 0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_listed_as_failed_and_costs_only_itself(site: Site, name: str) -> None:
    source, reason = BROKEN[name]
    site.install("dist-broken", **{name: source})
    site.install("dist-one", a_codec=codec_plugin("a_codec"), z_codec=codec_plugin("z_codec"))
    manager = build_manager()
    (failed,) = manager.failed
    assert failed.name == name
    assert reason in failed.error
    assert (failed.distribution, failed.version) == ("dist-broken", "1.5")
    assert (failed.hooks, failed.provides) == ([], {})
    assert manager.codecs.names() == ["a_codec", "z_codec"]
    assert manager.handler_table().plugins == {"a_codec", "z_codec"}
    assert manager.make_checks(ImageInfo("test"), frozenset({"a_codec"})) == []


def test_the_same_plugin_name_from_two_distributions_names_both(site: Site) -> None:
    site.install("dist-one", squeeze=codec_plugin("squeeze"))
    site.install("dist-two", squeeze=codec_plugin("squeeze", "other"))
    with pytest.raises(DuplicateNameError) as caught:
        build_manager()
    assert str(caught.value) == (
        "plugin 'squeeze' is offered twice: by distribution dist-one and by distribution dist-two"
    )


def test_a_distribution_that_is_found_twice_is_one(site: Site) -> None:
    site.install("dist-one", squeeze=codec_plugin("squeeze"))
    copy = site.folder / "again" / "dist_one-1.5.dist-info"
    copy.mkdir(parents=True)
    for file in (site.folder / copy.name).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    site.searched.append(str(copy.parent))
    assert len(site.entry_points(group="xsave")) == 2
    assert [status.name for status in build_manager().plugins] == ["squeeze"]


def test_the_same_thing_from_two_distributions_names_both(site: Site) -> None:
    site.install("dist-one", a=codec_plugin("a", "squeeze"))
    site.install("dist-two", b=codec_plugin("b", "squeeze"))
    with pytest.raises(DuplicateNameError) as caught:
        build_manager()
    assert str(caught.value) == (
        "codec 'squeeze' is offered twice: by a (dist-one 1.5) and by b (dist-two 1.5)"
    )


FORMAT_PLUGIN = """
    from xsave import Format, PluginInfo, hookimpl

    PLUGIN = PluginInfo({plugin!r}, "for a test", (1, 1))

    class Framing(Format):
        name = {plugin!r}
        suffixes = (".img", ".{plugin}")
        sniff = reader = writer = None

    @hookimpl
    def xsave_register_formats(register):
        register(Framing())
"""


def test_two_formats_may_not_share_a_suffix(site: Site) -> None:
    site.install("dist-one", a=FORMAT_PLUGIN.format(plugin="a"))
    site.install("dist-two", b=FORMAT_PLUGIN.format(plugin="b"))
    with pytest.raises(DuplicateNameError, match=r"format suffix '\.img' is offered twice") as c:
        build_manager()
    assert "dist-one" in str(c.value) and "dist-two" in str(c.value)


def test_installed_plugins_come_along_only_when_asked_for(site: Site) -> None:
    site.install("dist-one", squeeze=codec_plugin("squeeze"))
    mine = Plugin("mine", Plain("own"))
    assert build_manager([mine]).codecs.names() == ["own"]
    assert build_manager([mine], load_installed=True).codecs.names() == ["own", "squeeze"]
    assert build_manager(load_installed=False).codecs.names() == []


# Registering by hand.


def test_managers_know_nothing_of_each_other() -> None:
    mine = Plugin("mine", Mark("a.b"))
    first, second = build_manager([mine]), build_manager([mine])
    assert first.handlers.names() == second.handlers.names() == ["a.b"]
    assert build_manager([]).handlers.names() == []


def test_registering_the_same_plugin_name_twice_is_refused() -> None:
    with pytest.raises(DuplicateNameError, match="plugin 'mine' is offered twice"):
        build_manager([Plugin("mine"), Plugin("mine")])


def test_a_plugin_that_cannot_be_registered_leaves_nothing_behind() -> None:
    manager = PluginManager()
    with pytest.raises(PluginError, match="contract versions 7 to 9, and this xsave has"):
        manager.register(Plugin("early", Mark("a.b"), contract=(7, 9)))
    with pytest.raises(PluginError, match="has no phase"):
        manager.register(Plugin("phaseless", Mark("c.d"), Phaseless()))
    assert manager.handlers.names() == []
    assert [status.name for status in manager.failed] == ["early", "phaseless"]
    assert manager.handler_table().plugins == frozenset()


class Phaseless(Handler):
    name = "phase.less"


@pytest.mark.parametrize("contract", [(1, 1), (1, 9), (0, CONTRACT_VERSION)])
def test_any_range_with_our_contract_version_in_it_will_do(contract: tuple[int, int]) -> None:
    build_manager([Plugin("mine", contract=contract)])


# Choosing.


def three() -> PluginManager:
    return build_manager(
        [
            Plugin("base", Mark("base.a", version=2)),
            Plugin("middle", Mark("middle.a"), needs=["base"]),
            Plugin("top", Mark("top.a"), needs=["middle"]),
        ]
    )


def test_naming_a_plugin_brings_along_what_it_needs() -> None:
    manager = three()
    assert manager.handler_table(["top"]).plugins == {"base", "middle", "top"}
    assert manager.handler_table(["middle"]).plugins == {"base", "middle"}
    assert manager.handler_table([]).plugins == frozenset()
    assert manager.handler_table().plugins == {"base", "middle", "top"}


def test_plugins_may_need_each_other() -> None:
    manager = build_manager([Plugin("a", needs=["b"]), Plugin("b", needs=["a"])])
    assert manager.handler_table(["a"]).plugins == {"a", "b"}


def test_an_unknown_plugin_lists_the_known() -> None:
    with pytest.raises(UnknownNameError) as caught:
        three().handler_table(["tpo"])
    assert str(caught.value) == "no plugin is named 'tpo'; known: base, middle, top"


def test_needing_a_plugin_that_failed_says_why_it_did(site: Site) -> None:
    site.install("dist-broken", bad="raise OSError('libfoo is too old')")
    manager = build_manager([Plugin("mine", needs=["bad"])], load_installed=True)
    with pytest.raises(PluginError, match="plugin bad cannot be used: OSError: libfoo is too old"):
        manager.handler_table(["mine"])


# Options of plugins.


class Loud(Mark):
    """Remembers what it was made with."""

    options: Mapping[str, str] | None = None

    def configure(self, options: Mapping[str, str]) -> Handler:
        made = Loud(self.name, version=self.version)
        made.options = options
        return made


def with_options() -> PluginManager:
    volume = PluginOption("volume", "how loud", ("low", "high"))
    pitch = PluginOption("pitch", "how shrill", ["deep"], ["source", "dest"])
    return build_manager([
        Plugin("horn", Loud("horn.a", version=2), options=(volume, pitch)),
        Plugin("mute", Loud("mute.a")),
    ])  # fmt: skip


@pytest.mark.parametrize("volume", ["low", "high"])
def test_handlers_are_made_with_all_options_of_their_plugin_for_one_run(volume: str) -> None:
    manager = with_options()
    table = manager.handler_table(None, {"horn.volume": volume})
    made = table.get(RecordType("horn.a"))
    assert isinstance(made, Loud)
    assert made.options == {"volume": volume, "pitch": "deep"}
    assert made is not manager.handlers.find("horn.a")
    assert table.get(RecordType("horn.a", version=3)) is None
    other = manager.handler_table().get(RecordType("horn.a"))
    assert isinstance(other, Loud)
    assert other.options == {"volume": "low", "pitch": "deep"}
    assert table.get(RecordType("mute.a")) is manager.handlers.find("mute.a")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("volume", "low", "'volume' is no option of a plugin: expected PLUGIN.NAME"),
        ("horn.", "low", "'horn.' is no option of a plugin: expected PLUGIN.NAME"),
        ("flute.volume", "low", "no plugin that has options is named 'flute'; known: horn"),
        ("mute.volume", "low", "no plugin that has options is named 'mute'; known: horn"),
        ("horn.colour", "red",
         "no option of plugin horn is named 'colour'; known: volume, pitch"),
        ("horn.volume", "Low", "option horn.volume: expected low or high, got 'Low'"),
    ],
)  # fmt: skip
def test_an_option_that_there_is_not_is_refused_and_what_there_is_listed(
    key: str, value: str, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        with_options().handler_table(None, {key: value})
    assert str(caught.value) == message


def test_an_option_of_a_plugin_that_was_not_chosen_is_refused() -> None:
    with pytest.raises(UsageError, match=r"option horn.volume: .* not among those chosen \(mute\)"):
        with_options().handler_table(["mute"], {"horn.volume": "low"})


def test_a_record_is_understood_only_by_plugins_in_use_and_up_to_their_version() -> None:
    table = three().handler_table(["middle"])
    assert table.get(RecordType("middle.a")) is not None
    assert table.get(RecordType("top.a")) is None
    assert table.get(RecordType("nobody.a")) is None
    assert table.get(RecordType("base.a", version=1)) is not None
    assert table.get(RecordType("base.a", version=2)) is not None
    assert table.get(RecordType("base.a", version=3)) is None


def test_the_owner_of_a_record_is_known_even_when_it_is_not_in_use() -> None:
    table = three().handler_table(["base"])
    stated = Owner("theirs", "dist 9")
    assert table.owner_of(RecordType("top.a", owner=stated)) == Owner("top", "")
    assert table.owner_of(RecordType("nobody.a", owner=stated)) == stated
    assert table.owner_of(RecordType("nobody.a")) is None


def test_a_bare_record_is_identified_and_a_stated_one_left_as_it_is() -> None:
    table = three().handler_table([])
    found = table.identify(RecordType("base.a", mandatory=False))
    assert found == RecordType("base.a", 2, False, Owner("base", ""))
    stated = RecordType("base.a", 1, True, Owner("theirs", "dist 9"))
    assert table.identify(stated) is stated
    nobodys = RecordType("nobody.a")
    assert table.identify(nobodys) is nobodys


def test_a_cycle_among_the_plugins_in_use_is_an_error_at_the_start() -> None:
    manager = build_manager(
        [Plugin("a", Mark("a.a", before=["b.b"])), Plugin("b", Mark("b.b", before=["a.a"]))]
    )
    manager.handler_table(["a"])
    with pytest.raises(PluginError, match="contradicts itself"):
        manager.handler_table()
    with pytest.raises(PluginError, match="contradicts itself"):
        manager.record_order()


def test_records_are_listed_in_the_order_of_a_stream() -> None:
    manager = build_manager([Plugin("a", Mark("z.z", before=["a.a"]), Mark("a.a"))])
    assert manager.record_order() == ["z.z", "a.a"]


def test_a_codec_is_chosen_by_name_and_level() -> None:
    manager = build_manager([Plugin("mine", Plain("own"))])
    assert str(manager.choose_codec("own")) == "own"
    with pytest.raises(UnknownNameError, match="known: own"):
        manager.choose_codec("other")


def test_a_codec_whose_plugin_failed_says_why(site: Site) -> None:
    site.install("dist-broken", squeeze="raise OSError('libfoo is too old')")
    with pytest.raises(PluginError, match="codec squeeze cannot be used: OSError: libfoo"):
        build_manager().choose_codec("squeeze:3")


# Asking.


class Watching(Plugin):
    """Offers a check for each stream of format "watched", and a remark to the doctor."""

    def __init__(self, name: str, remark: str = "") -> None:
        super().__init__(name)
        self.remark = remark

    @hookimpl
    def xsave_make_check(self, info: ImageInfo) -> StreamCheck | None:
        watcher: Any = SimpleNamespace(plugin=self.PLUGIN.name)
        return watcher if info.format == "watched" else None

    @hookimpl
    def xsave_doctor(self, report: Callable[[str, bool, str], None]) -> None:
        report("library", True, self.remark or str(1 // 0))


def test_checks_are_made_anew_for_each_stream_by_the_plugins_in_use() -> None:
    manager = build_manager([Watching("a"), Watching("b"), Plugin("c")])

    def makers(name: str, plugins: set[str]) -> list[str]:
        checks: Sequence[Any] = manager.make_checks(ImageInfo(name), frozenset(plugins))
        return sorted(check.plugin for check in checks)

    assert makers("watched", {"a", "b", "c"}) == ["a", "b"]
    assert makers("watched", {"b", "c"}) == ["b"]
    assert makers("other", {"a", "b", "c"}) == []
    everyone = frozenset({"a"})
    first, second = (manager.make_checks(ImageInfo("watched"), everyone) for _ in range(2))
    assert first[0] is not second[0]


def test_the_doctor_hears_every_plugin_even_when_one_breaks(site: Site) -> None:
    site.install("dist-broken", bad="raise OSError('libfoo is too old')")
    plugins = [Watching("well", "libfoo 2"), Watching("ill"), Plugin("silent")]
    found = build_manager(plugins, load_installed=True).doctor()
    assert ("bad", "loads", False, "OSError: libfoo is too old") in found
    assert ("well", "library", True, "libfoo 2") in found
    ill = [remark for remark in found if remark[0] == "ill" and not remark[2]]
    assert [(what, text) for _, what, _, text in ill] == [
        ("xsave_doctor", "ZeroDivisionError: integer division or modulo by zero")
    ]
    assert [remark[1] for remark in found if remark[0] == "silent"] == ["loads"]
