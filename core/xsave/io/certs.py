"""Certificates for a laboratory: a small authority, and hosts that it vouches for.

What stands here is for trying things out. An installation that matters has an authority of
its own, whose certificates need to hold the same: TLS server and client use, the host's names.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputError, UsageError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CA, HOST, KEY = "ca.pem", "host.pem", "host.key"
CA_KEY = "ca.key"
EVERYWHERE = ("localhost", "127.0.0.1", "::1")  # a laboratory is often one machine
KEY_MODE, CERTIFICATE_MODE = 0o600, 0o644
# Clocks of two machines differ.
EARLIER = datetime.timedelta(hours=1)


def make_certificates(folder: Path, hosts: Mapping[str, Sequence[str]], days: int) -> list[Path]:
    """``FOLDER/ca.pem`` and ``ca.key``, and for each host a folder with what it needs.

    :param hosts: name to further names and addresses.
    :returns: the files made.
    :raises OutputError: one is there already, or cannot be written.
    :raises UsageError: the package that makes certificates is missing.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise UsageError(
            "making certificates needs the package cryptography: pip install 'xsave[tls]'"
        ) from None
    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty: certificates are made in a new folder")
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _sign("xsave laboratory", (), authority_key, None, authority_key, days)
    files = {
        folder / CA: (_pem(authority), CERTIFICATE_MODE),
        folder / CA_KEY: (_key_pem(authority_key), KEY_MODE),
    }
    for name, others in hosts.items():
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(name, (name, *others), key, authority, authority_key, days)
        files[folder / name / CA] = (_pem(authority), CERTIFICATE_MODE)
        files[folder / name / HOST] = (_pem(certificate), CERTIFICATE_MODE)
        files[folder / name / KEY] = (_key_pem(key), KEY_MODE)
    for path, (content, mode) in files.items():
        _write(path, content, mode)
    return list(files)


def _sign(
    name: str, names: Sequence[str], key: EllipticCurvePrivateKey,
    issuer: x509.Certificate | None, issuer_key: EllipticCurvePrivateKey, days: int,
) -> x509.Certificate:  # fmt: skip
    """:param issuer: None for the authority itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    is_ca = issuer is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(is_ca, 0 if is_ca else None), critical=True)
        .add_extension(_key_usage(is_ca=is_ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if not is_ca:
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
        general = [_general_name(each) for each in dict.fromkeys(names)]
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise UsageError(f"{name!r} is neither a host's name nor an address") from None


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes, mode: int) -> None:
    """A new file, with its mode from the first moment."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
