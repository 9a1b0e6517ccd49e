"""The shape of the whole: who imports whom, what is public, what is documented."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import xsave
import xsave.testing
from xsave import hookspecs

ROOT = Path(__file__).parent.parent
CORE = ROOT / "core" / "xsave"
PLUGINS = ROOT / "plugins" / "xsave_plugins"
CONTRIB = ROOT / "plugins_contrib"

# What touches the machine. Handlers and formats are pure; codecs are too.
MACHINE = frozenset({
    "asyncio", "ctypes", "datetime", "fcntl", "glob", "io", "mmap", "multiprocessing", "os",
    "pathlib", "random", "select", "selectors", "shutil", "signal", "socket", "subprocess",
    "tempfile", "threading", "time",
})  # fmt: skip
# Core modules outside of io/ and cli/ that may use some of it all the same, and why.
ALLOWED = {
    # a link waits: for channels, which threads read and write, and not for ever
    "link.connect": {"time"},
    "link.frame": {"io"},  # a decoder wants a file
    "link.lane": {"threading", "time"},
    "link.link": {"threading", "time"},
    "link.opening": {"time"},
    "link.server": {"threading", "time"},
    "light_start": {"os"},  # what a library reads from the environment
    "manager": {"time"},  # how long a plugin took to load
    "value_class": {"threading"},  # a class is made once, whoever makes its first object
    "workers": {"os"},  # the number of processors
    "pipeline.base": {"pathlib"},  # whether a base is a file
    "pipeline.diff": {"os", "pathlib"},  # whether an image can be read twice
    "pipeline.ends": {"os", "pathlib"},  # whether an address is a file
    "pipeline.inspect": {"pathlib"},  # names of images
    "pipeline.breaks": {"threading"},  # tells that a link is broken while others wait for it
    # names of images; whoever looks into memory may do so from several threads
    "pipeline.memory": {"pathlib", "threading"},
    "pipeline.migrate": {"time"},  # for how long an end that does not answer is asked again
    "pipeline.receive": {"threading", "time"},  # a thread for each guest that comes
    "pipeline.redact": {"os", "pathlib"},  # whether an image can be read again
    "pipeline.look": {"time"},  # for how long a guest stood still
    "pipeline.run": {"datetime", "os", "pathlib"},  # when an image was made; names of images
    "pipeline.salvage": {"os", "pathlib"},  # whether an image can be read from anywhere
    "pipeline.save": {"time"},  # the clock that downtime is measured with
    "pipeline.stream": {"time"},  # rate and remaining time
    "pipeline.verify": {"pathlib"},  # names of images
    "testing.backend_suite": {"time"},  # waits for guests whose time passes by itself
    "testing.codec_suite": {"io"},  # a read function over bytes
    "testing.handler_suite": {"pathlib"},  # golden bodies
    "testing.links": {"threading", "time"},  # channels between threads, which time out
    "testing.transport_suite": {"threading"},  # both ends at once
}
# And plugins that may.
MACHINE_IN_PLUGINS = {
    "xsave_plugins.codecs.zstd": {"threading"},  # a compressor for each thread
    # a backend is a machine: guests that run meanwhile, in memory that is mapped
    "xsave_plugins.sim_host.clock": {"threading", "time"},
    "xsave_plugins.sim_host.machine_memory": {"mmap"},
    # and one that can be served to other processes, so that its guests outlive them
    "xsave_plugins.sim_host.address": {"os"},  # where a socket is, seen from anywhere
    "xsave_plugins.sim_host.command": {"os", "signal", "threading"},
    "xsave_plugins.sim_host.connection": {"os", "socket"},
    "xsave_plugins.sim_host.remote": {"os"},
    "xsave_plugins.sim_host.served": {"subprocess"},
    "xsave_plugins.sim_host.server": {"socket", "threading"},
    # transports are where bytes leave the process
    "xsave_plugins.transports.client": {"os", "shutil", "signal", "subprocess"},
    "xsave_plugins.transports.descriptors": {"os", "select", "threading"},
    "xsave_plugins.transports.guard": {"threading"},
    "xsave_plugins.transports.inet": {"socket", "time"},
    "xsave_plugins.transports.local": {"os", "pathlib", "socket"},
    "xsave_plugins.transports.secure": {"os", "pathlib", "select", "socket", "threading", "time"},
    "xsave_plugins.transports.sockets": {"os", "select", "socket", "time"},
    "xsave_plugins.transports.tcp": {"socket"},
    "xsave_plugins.transports.tls": {"socket", "time"},
    "xsave_plugins.transports.unix": {"socket"},
    "xsave_drgn": {"os"},  # names of images
    # Xen's libraries, and memory that they map
    "xsave_plugins.xen_host.libraries": {"ctypes", "pathlib"},
    "xsave_plugins.xen_host.hypercalls": {"ctypes", "os"},
    "xsave_plugins.xen_host.memory": {"ctypes", "mmap", "os"},
    # a host's daemons answer at sockets, within a time
    "xsave_plugins.xen_host.xenstore": {"socket", "time"},
    "xsave_plugins.xen_host.device_model": {"pathlib", "socket", "tempfile", "time"},
    # the program that libxl runs, at the descriptors that libxl gave it
    "xsave_plugins.xen_host.libxl_link": {"os"},
    "xsave_plugins.xen_host.helper_settings": {"pathlib"},
    "xsave_plugins.xen_host.save_helper": {"os", "signal"},
    # where a host keeps a guest's TPM
    "xsave_vtpm.swtpm": {"os", "pathlib"},
    # one that works on a guest at a time, and a process that stays when it is killed
    "xsave_plugins.xen_host.guard": {"fcntl", "os", "pathlib", "subprocess", "time"},
    # what libxl keeps in files, and xl, which ends a guest with its devices
    "xsave_plugins.xen_host.toolstack": {"pathlib", "subprocess"},
}
OPENING = frozenset({"open", "os.open", "os.read", "os.write", "os.pipe", "os.fdopen"})
# To print what no plugin understands; messages of a link.
CBOR_IN_CORE = frozenset({"pipeline.inspect", "link.frame"})
LAYERS_ABOVE = ("pipeline", "io", "cli", "testing")


def module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def core_modules() -> dict[str, Path]:
    """Module name without the leading ``xsave.`` to file."""
    return {module_name(file, CORE): file for file in sorted(CORE.rglob("*.py"))}


def plugin_modules() -> dict[str, Path]:
    return {module_name(file, PLUGINS.parent): file for file in sorted(PLUGINS.rglob("*.py"))}


def contrib_modules() -> dict[str, Path]:
    found = {}
    for source in sorted(CONTRIB.glob("*/src")):
        found.update({module_name(file, source): file for file in sorted(source.rglob("*.py"))})
    return found


def imports(module: str, file: Path) -> Iterator[tuple[str, str, bool]]:
    """(absolute module, name imported from it or "", whether only for type checkers)."""
    tree = ast.parse(file.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, "", node in typing_only
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            above = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield base, alias.name, node in typing_only


def imported_modules(module: str, file: Path) -> set[str]:
    """All that is imported; for ``from a import b`` both a and a.b, whichever is a module."""
    found = set()
    for base, name, _ in imports(module, file):
        found |= {base, f"{base}.{name}"} if name else {base}
    return found


def top(module: str) -> str:
    return module.partition(".")[0]


def entry_points() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, str] = project["entry-points"]["xsave"]
    return found


# Who imports whom.


@pytest.mark.parametrize("module", core_modules())
def test_core_does_not_know_the_plugins(module: str) -> None:
    file = core_modules()[module]
    assert "xsave_plugins" not in file.read_text()
    assert "xsave_plugins" not in map(top, imported_modules(f"xsave.{module}", file))


@pytest.mark.parametrize("module", core_modules())
def test_core_imports_only_downwards(module: str) -> None:
    if module in {"", "__main__"}:  # the public names, and the way in of python -m
        return
    layer = top(module)
    for base, name, _ in imports(f"xsave.{module}", core_modules()[module]):
        inner = f"{base}.{name}".removeprefix("xsave.")
        if not f"{base}.".startswith("xsave.") or top(inner) == layer:
            continue
        if layer == "io" or (layer == "testing" and top(inner) not in LAYERS_ABOVE):
            assert top(inner) not in {"pipeline", "cli", "testing"}, inner
        elif layer == "pipeline":
            assert top(inner) not in {"cli", "testing"}, inner
        elif layer != "cli":
            assert top(inner) not in LAYERS_ABOVE, inner
        else:
            assert top(inner) != "testing", inner


@pytest.mark.parametrize("module", core_modules())
def test_only_io_and_the_commands_touch_the_machine(module: str) -> None:
    if top(module) in {"io", "cli"}:
        return
    used = MACHINE & set(map(top, imported_modules(f"xsave.{module}", core_modules()[module])))
    assert used <= ALLOWED.get(module, set())


@pytest.mark.parametrize("module", core_modules())
def test_files_are_opened_in_io_only(module: str) -> None:
    if top(module) == "io":
        return
    for call in ast.walk(ast.parse(core_modules()[module].read_text())):
        if isinstance(call, ast.Call):
            assert ast.unparse(call.func) not in OPENING, call.lineno


@pytest.mark.parametrize("module", [*core_modules(), *plugin_modules(), *contrib_modules()])
def test_libraries_stay_where_they_belong(module: str) -> None:
    files = {**contrib_modules(), **plugin_modules(), **core_modules()}
    used = set(map(top, imported_modules(module, files[module])))
    if module not in {"hookspecs", "manager"}:
        assert "pluggy" not in used
    if module in core_modules():
        assert "cbor2" not in used or module in CBOR_IN_CORE
        if top(module) != "testing":
            assert not used & {"pytest", "hypothesis"}
        if top(module) != "cli":
            assert not used & {"click", "rich"}
    if module != "xsave_plugins.codecs.brotli":
        assert "brotli" not in used
    if module in {"testing", "testing.memory", "testing.pytest_plugin"}:
        assert "hypothesis" not in used


@pytest.mark.parametrize("module", [*plugin_modules(), *contrib_modules()])
def test_plugins_import_only_public_names(module: str) -> None:
    file = {**plugin_modules(), **contrib_modules()}[module]
    for base, name, _ in imports(module, file):
        if top(base) == "xsave":
            assert base == "xsave", f"from xsave import …, not {base}"
            assert name in xsave.__all__, f"xsave.{name} is not public"


@pytest.mark.parametrize("module", [*plugin_modules(), *contrib_modules()])
def test_no_plugin_imports_another(module: str) -> None:
    file = {**plugin_modules(), **contrib_modules()}[module]
    own = _plugin_of(module)
    for imported in imported_modules(module, file):
        if top(imported) == "xsave_plugins":
            assert _plugin_of(imported) in {own, ""}, imported
        elif top(imported).startswith("xsave_"):
            assert top(imported) == top(module), imported


def _plugin_of(module: str) -> str:
    """The entry point's module that this one belongs to; "" for what plugins share."""
    homes = [home for home in entry_points().values() if f"{module}.".startswith(f"{home}.")]
    return max(homes, key=len, default="")


@pytest.mark.parametrize("module", [*plugin_modules(), *contrib_modules()])
def test_plugins_do_not_touch_the_machine(module: str) -> None:
    file = {**plugin_modules(), **contrib_modules()}[module]
    used = MACHINE & set(map(top, imported_modules(module, file)))
    assert used <= MACHINE_IN_PLUGINS.get(module, set())
    assert not re.search(r"(?<!def )(?<![\w.])open\(", file.read_text())


@pytest.mark.parametrize("part", ["core", "plugins", "plugins_contrib"])
def test_nothing_has_a_name_that_says_nothing(part: str) -> None:
    names = {path.stem.strip("_") for path in (ROOT / part).rglob("*")}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc", "base_impl"}


# What is public.


@pytest.mark.parametrize("module", [xsave, xsave.testing], ids=["xsave", "xsave.testing"])
def test_public_names_are_listed_alike_for_people_python_and_type_checkers(
    module: Any,
) -> None:
    file = Path(inspect.getfile(module))
    package = module.__name__
    seen = {name for base, name, only in imports(package, file) if only and top(base) == "xsave"}
    assert seen == set(module.__all__)
    assert set(module._HOME_OF) == set(module.__all__)
    assert len(module.__all__) == len(set(module.__all__))


@pytest.mark.parametrize("name", xsave.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(xsave, name) is not None
    assert name in dir(xsave)


@pytest.mark.parametrize("name", xsave.testing.__all__)
def test_every_public_testing_name_can_be_imported(name: str) -> None:
    assert getattr(xsave.testing, name) is not None


def test_another_name_is_an_attribute_error() -> None:
    for module in (xsave, xsave.testing):
        with pytest.raises(AttributeError, match=r"module 'xsave.* has no attribute 'frobnicate'"):
            _ = module.frobnicate


def test_every_public_class_and_function_says_what_it_is() -> None:
    for name in xsave.__all__:
        value = getattr(xsave, name)
        if (inspect.isfunction(value) or inspect.isclass(value)) and value.__name__ == name:
            assert value.__doc__, name


# What is documented.


def hooks() -> dict[str, Callable[..., object]]:
    return {
        name: hook
        for name, hook in inspect.getmembers(hookspecs, inspect.isfunction)
        if name.startswith("xsave_")
    }


def test_there_are_ten_hooks() -> None:
    assert len(hooks()) == 10


@pytest.mark.parametrize("name", hooks())
def test_a_hook_says_when_with_what_and_what_on_conflict(name: str) -> None:
    text = re.sub(r"\s+", " ", inspect.getdoc(hooks()[name]) or "")
    assert "Called " in text
    for argument in inspect.signature(hooks()[name]).parameters:
        assert f":param {argument}:" in text
    assert re.search(r"On conflict:|There is no conflict|All checks run", text)


@pytest.mark.parametrize("name", hooks())
def test_a_hook_is_documented_with_its_arguments(name: str) -> None:
    document = (ROOT / "docs" / "plugins.md").read_text()
    arguments = ", ".join(inspect.signature(hooks()[name]).parameters)
    section = document.partition(f"\n### `{name}({arguments})`\n")[2].partition("\n### ")[0]
    assert section, f"docs/plugins.md has no section `{name}({arguments})`"
    for word in ("**When:**", "**With:**", "**On conflict:**", "```python"):
        assert word in section, f"{name}: {word}"


def test_the_contract_version_is_the_documented_one() -> None:
    document = (ROOT / "docs" / "plugins.md").read_text()
    assert f"contract version is **{xsave.CONTRACT_VERSION}**" in document


# What the plugins offer, and what is left without them.


def test_the_bundled_plugins_load_and_their_record_names_are_unique() -> None:
    manager = xsave.build_manager()
    assert {status.name: status.error for status in manager.failed} == {}
    assert set(entry_points()) <= {status.name for status in manager.plugins}
    assert len(manager.record_order()) == len(set(manager.record_order()))


def test_loading_the_plugins_imports_nothing_heavy() -> None:
    found = run_python(
        "import sys, json, xsave; xsave.build_manager(); print(json.dumps(sorted(sys.modules)))"
    )
    heavy = {"numpy", "brotli", "backports.zstd", "lz4.block", "rich", "hypothesis", "pytest"}
    assert not heavy & set(json.loads(found))


def test_loading_the_plugins_makes_methods_only_for_classes_that_have_objects() -> None:
    found = run_python(
        "import sys, json, xsave; xsave.build_manager()\n"
        "modules = [module for name, module in sys.modules.items() if name.startswith('xsave')]\n"
        "kinds = {kind for module in modules for kind in vars(module).values()\n"
        "         if isinstance(kind, type) and '__attrs_attrs__' in vars(kind)}\n"
        "made = [kind for kind in kinds if isinstance(vars(kind)['__attrs_attrs__'], tuple)]\n"
        "print(json.dumps([len(kinds), [kind.__name__ for kind in made]]))"
    )
    nr_classes, made = json.loads(found)
    assert nr_classes > 100
    assert "PluginInfo" in made
    assert len(made) < 25


@pytest.mark.parametrize("fast", [True, False])
def test_an_hvm_image_of_xen_is_verified_without_numpy(fast: bool) -> None:
    found = run_python(
        "import sys, json, xsave\n"
        f"xsave.verify('data/hvmbios.save.zst', fast={fast})\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    assert "numpy" not in json.loads(found)


def test_importing_xsave_imports_nothing_but_itself() -> None:
    found = run_python("import sys, json, xsave; print(json.dumps(sorted(sys.modules)))")
    assert not {"attrs", "attr", "pluggy", "numpy", "click"} & set(json.loads(found))


def test_the_pytest_plugin_imports_nothing_heavy() -> None:
    found = run_python(
        "import sys, json, xsave.testing.pytest_plugin; print(json.dumps(sorted(sys.modules)))"
    )
    assert not {"numpy", "hypothesis", "pluggy._xsave", "click"} & set(json.loads(found))
    assert [name for name in json.loads(found) if name.startswith("xsave")] == [
        "xsave",
        "xsave.testing",
        "xsave.testing.pytest_plugin",
    ]


WITHOUT_PLUGINS = """
import importlib, json, pkgutil, sys

class Deleted:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "xsave_plugins":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Deleted())
import xsave

for module in pkgutil.walk_packages(xsave.__path__, "xsave."):
    importlib.import_module(module.name)
names = [name for name in xsave.__all__ if getattr(xsave, name) is None]
bare, installed = xsave.build_manager([]), xsave.build_manager()
print(json.dumps({
    "missing": names,
    "listed": [status.name for status in bare.plugins],
    "records": bare.record_order() + installed.record_order(),
    "formats": bare.formats.names() + installed.formats.names(),
    "working": [s.name for s in installed.plugins if s.module.startswith("xsave_plugins")
                and not s.error],
}))
"""


def test_without_the_plugins_core_imports_and_lists_nothing() -> None:
    found = json.loads(run_python(WITHOUT_PLUGINS))
    assert found["missing"] == []
    assert found["listed"] == []
    assert not [name for name in found["records"] if name.startswith("xen.")]
    assert found["formats"] == []
    assert found["working"] == []


def test_without_the_plugins_core_passes_its_own_tests() -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "tests.without_plugins",
            "-p", "no:cacheprovider", "tests/core",
        ],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def run_python(code: str) -> str:
    """In a process of its own; what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, check=False, env=dict(os.environ), cwd=ROOT / "tests",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
