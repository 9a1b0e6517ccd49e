"""xsave certs makes what tls: wants, for two hosts, and nobody else may read the keys."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from xsave.testing.transport_suite import accepted, in_thread, read_exactly
from xsave_plugins.transports.tls import TlsTransport

TIME_S = 30.0
Run = Callable[..., subprocess.CompletedProcess[bytes]]


def test_both_hosts_meet_over_tls(run_xsave: Run, tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    assert run_xsave("certs", lab).returncode == 0
    tls = TlsTransport()
    with tls.listen(f"127.0.0.1:0?certs={lab}/destination&peer=source") as listener:
        come = in_thread(lambda: accepted(listener))
        port = listener.address.partition("?")[0].rpartition(":")[2]
        near = tls.connect(f"127.0.0.1:{port}?certs={lab}/source", TIME_S)
        far = come()
        near.write_parts([b"hello"])
        assert read_exactly(far, 5) == b"hello"
        near.close()
        far.close()


def test_a_host_has_the_names_and_the_time_that_were_asked_for(
    run_xsave: Run, valid: Callable[[bytes], dict[str, Any]], tmp_path: Path
) -> None:
    done = run_xsave(
        "certs", tmp_path / "lab", "--host", "alpha,alpha.example,192.0.2.7", "--host", "beta",
        "--days", "7", "--json",
    )  # fmt: skip
    found = valid(done.stdout)
    assert found["hosts"] == {name: f"{tmp_path}/lab/{name}" for name in ("alpha", "beta")}
    certificate = x509.load_pem_x509_certificate(
        Path(found["hosts"]["alpha"], "host.pem").read_bytes()
    )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["alpha", "alpha.example", "192.0.2.7"]
    assert 6 < (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days <= 7


def test_keys_are_for_their_owner_only(run_xsave: Run, tmp_path: Path) -> None:
    run_xsave("certs", tmp_path / "lab")
    keys = sorted(tmp_path.rglob("*.key"))
    assert [key.parent.name for key in keys] == ["lab", "destination", "source"]
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 1, "is not empty: certificates are made in a new folder"),
        (("--host", "a b"), 2, "'a b' is not NAME or NAME,NAME,ADDRESS"),
        (("--host", "../x"), 2, "'../x' is not NAME"),
        (("--host", "a,"), 2, "'a,' is not NAME"),
        (("--host", "a", "--host", "a"), 2, "a is given twice"),
        (("--days", "0"), 2, "0 is not in the range"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(
    run_xsave: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "there").touch()
    done = run_xsave("certs", tmp_path, *arguments)
    assert (done.returncode, message in done.stderr.decode()) == (code, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
