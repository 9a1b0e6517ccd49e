"""``xsave run`` without endpoints: the main job."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

import xsave
from xsave import Backend, Domain, DomainInfo, PluginInfo, UsageError, hookimpl
from xsave.cli.live_report import main_job_as_text
from xsave.pipeline.main_job import demo_backend, run_main_job
from xsave.progress import GuestReport, MainJobReport, Progress
from xsave.record import GuestType

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Valid = Callable[[bytes | str], dict[str, Any]]


def test_all_plugins_save_restore_and_move_a_guest_of_each_type(
    run_xsave: Run, tmp_path: Path, valid: Valid
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    done = run_xsave("run", "--json", env={"TMPDIR": str(folder)})
    assert done.returncode == 0, done.stderr
    report = valid(done.stdout)
    assert report["ok"] is True
    assert [guest["name"] for guest in report["guests"]] == ["demo-pv", "demo-pvh", "demo-hvm"]
    for guest in report["guests"]:
        assert guest["equal"] is True
        assert "contents of pages" in guest["compared"]
        assert guest["saved"]["save"]["live"] is True
        assert guest["saved"]["nr_pages"] == guest["restored"]["nr_pages"]
        assert guest["moved"]["dest"]["format"] == "sim"
    assert not list(folder.iterdir())


def test_guests_whose_plugin_is_not_chosen_are_left_out_and_named(run_xsave: Run) -> None:
    done = run_xsave("run", "--plugins", "tmem,hvm")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    for part in ("plugins hvm, tmem", "into an image", "from the image", "straight over",
                 "demo-pv is left out: its memory belongs to plugin pv, not among those chosen",
                 "2 guests arrived exactly as they left (demo-pv left out)"):  # fmt: skip
        assert part in text
    assert "different" not in text


def test_plugins_that_know_no_memory_are_a_usage_error(run_xsave: Run) -> None:
    done = run_xsave("run", "--plugins", "x86")
    assert done.returncode == 2
    assert b"know the memory of no guest" in done.stderr


def test_no_guest_is_left_behind_and_progress_names_guest_and_way(tmp_path: Path) -> None:
    manager = xsave.build_manager()
    told: list[Progress] = []
    report = run_main_job(
        str(tmp_path), plugins=["pv"], manager=manager, progress=told.append, codec="lz4"
    )
    assert {guest.name: bool(guest.left_out) for guest in report.guests} == {
        "demo-pv": False, "demo-pvh": True, "demo-hvm": True,
    }  # fmt: skip
    backend: Any = manager.backends.find("sim")
    assert not backend.host("a").guests
    assert not backend.host("b").guests
    stages = {progress.stage for progress in told}
    assert stages == {"demo-pv: save", "demo-pv: restore", "demo-pv: move"}


class Falsified:
    """A guest of another backend that says something else each time."""

    def __init__(self, inner: Domain, digests: Mapping[str, bytes] | None) -> None:
        self._inner = inner
        self._digests = digests

    def fingerprint(self) -> Mapping[str, bytes] | None:
        return self._digests

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Liar(Backend):
    """Offers one guest, whose fingerprint is not the same twice."""

    name: ClassVar[str] = "liar"

    def __init__(self, inner: Backend, *, silent: bool) -> None:
        self._inner = inner
        self._silent = silent
        self._count = 0

    def _wrapped(self, domain: Domain) -> Domain:
        self._count += 1
        digests = None if self._silent else {"memory": bytes([self._count])}
        return cast(Domain, Falsified(domain, digests))

    def open(self, address: str) -> Domain:
        return self._wrapped(self._inner.open(address))

    def create(self, address: str, info: DomainInfo) -> Domain:
        return self._wrapped(self._inner.create(address, info))

    def demo_addresses(self) -> Sequence[tuple[str, str]]:
        return [("pvh?memory=4M&name=liar", "pvh?host=b&name=liar")]


def _with_liar(*, silent: bool) -> xsave.PluginManager:
    manager = xsave.build_manager()
    sim = manager.backends.find("sim")
    manager.backends.drop("sim")

    class Plugin:
        PLUGIN = PluginInfo(name="liar", summary="lies", contract=(1, 1))

        @hookimpl
        def xsave_register_backends(self, register: Callable[[Backend], None]) -> None:
            register(Liar(sim, silent=silent))

    manager.register(Plugin())
    return manager


@pytest.mark.parametrize("silent", [False, True])
def test_what_differs_or_cannot_be_compared_is_never_called_equal(
    tmp_path: Path, silent: bool
) -> None:
    report = run_main_job(str(tmp_path), manager=_with_liar(silent=silent))
    (guest,) = report.guests
    assert not report.ok
    assert guest.image_differs == guest.move_differs == ([] if silent else ["memory"])
    text = "\n".join(main_job_as_text(report))
    assert ("has nothing to compare it by" if silent else "different in memory") in text
    assert "not every guest is proved" in text
    assert "arrived exactly" not in text


def test_a_difference_ends_with_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from xsave.cli import main

    found = MainJobReport("sim", None, "fixed", [
        GuestReport("demo", "sim:pv", GuestType.X86_PV, parts=["memory"], move_differs=["memory"])
    ])  # fmt: skip
    monkeypatch.setattr("xsave.pipeline.main_job.run_main_job", lambda *_, **__: found)
    assert main(["run", "-q"]) == 1
    assert "demo, straight over: different in memory" in capfd.readouterr().out


def test_exactly_one_backend_must_offer_guests() -> None:
    with pytest.raises(UsageError, match="no backend offers guests"):
        demo_backend(xsave.build_manager([]))
