"""Certificates that are wrong in one thing each, and one that is right."""

from __future__ import annotations

import datetime
import functools
import ipaddress
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@frozen
class Recipe:
    """:ivar usage: extended key usage; empty for none at all.
    :ivar rsa_bits: 0 for a curve.
    """

    names: tuple[str, ...] = ("localhost",)
    begins: datetime.datetime = NOW - DAY
    ends: datetime.datetime = NOW + DAY
    usage: tuple[x509.ObjectIdentifier, ...] = (SERVER, CLIENT)
    authority: str = "known"
    rsa_bits: int = 0
    common_name: str = field(default="host")


GOOD = Recipe()
RECIPES = {
    "good": GOOD,
    "expired": evolve(GOOD, ends=NOW - DAY / 2),
    "future": evolve(GOOD, begins=NOW + DAY / 2),
    "other name": evolve(GOOD, names=("elsewhere.example",)),
    "unknown issuer": evolve(GOOD, authority="unknown"),
    "signed by itself": evolve(GOOD, authority=""),
    "server only": evolve(GOOD, usage=(SERVER,)),
    "client only": evolve(GOOD, usage=(CLIENT,)),
    "short key": evolve(GOOD, rsa_bits=1024),
    "signed by a host": evolve(GOOD, authority="host", common_name="another host"),
    "other host": evolve(GOOD, names=("other.example", "localhost")),
    "address": evolve(GOOD, names=("127.0.0.1",)),
}


@functools.cache
def authority(name: str) -> tuple[x509.Certificate, Any]:
    if name == "host":  # somebody who has a certificate, and is no authority
        return make(GOOD)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"authority {name}")
    builder = _builder(subject, subject, key, NOW - 2 * DAY, NOW + 2 * DAY)
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    return builder.sign(key, hashes.SHA256()), key


@functools.cache
def make(recipe: Recipe) -> tuple[x509.Certificate, Any]:
    key: Any = (
        rsa.generate_private_key(65537, recipe.rsa_bits)
        if recipe.rsa_bits
        else ec.generate_private_key(ec.SECP256R1())
    )
    subject = _name(recipe.common_name)
    if recipe.authority:
        above, above_key = authority(recipe.authority)
        issuer = above.subject
    else:
        issuer, above_key = subject, key
    builder = _builder(subject, issuer, key, recipe.begins, recipe.ends)
    builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
    names = [_general(name) for name in recipe.names]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if recipe.usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage(recipe.usage), critical=False)
    return builder.sign(above_key, hashes.SHA256()), key


def write(folder: Path, what: str, trusts: str = "known") -> Path:
    """A folder as ``?certs=`` wants it."""
    certificate, key = make(RECIPES[what])
    folder = folder / what.replace(" ", "-") / trusts
    folder.mkdir(parents=True, exist_ok=True)
    chain = certificate.public_bytes(Encoding.PEM)
    if RECIPES[what].authority == "host":
        chain += authority("host")[0].public_bytes(Encoding.PEM)
    (folder / "ca.pem").write_bytes(authority(trusts)[0].public_bytes(Encoding.PEM))
    (folder / "host.pem").write_bytes(chain)
    (folder / "host.key").touch(0o600)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "host.key").write_bytes(pem)
    return folder


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Any, begins: Any, ends: Any
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
