"""Authorities, certificates and keys made on the spot."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """PEM of a certificate and of its key."""

    certificate: bytes
    key: bytes


class Authority:
    """Signs certificates."""

    def __init__(self, name: str = "made authority", starts: int = -30, ends: int = 30) -> None:
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = _pem(
            _built(self._name, self._name, self._key, self._key, starts, ends, usage, critical=True)
        )

    def issue(
        self,
        name: str = "localhost",
        *,
        starts: int = -1,
        ends: int = 30,
        key: CertificateIssuerPrivateKeyTypes | None = None,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
        password: bytes | None = None,
    ) -> Pair:
        """A certificate of the subject `name`, for the host localhost, from `starts` to `ends` days from now."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        extended = x509.ExtendedKeyUsage([usage])
        certificate = _built(subject, self._name, key, self._key, starts, ends, extended)
        protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        return Pair(
            _pem(certificate),
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection),
        )

    def issue_client(self, name: str = "a client") -> Pair:
        """A certificate for a client."""
        return self.issue(name, usage=ExtendedKeyUsageOID.CLIENT_AUTH)


def write_settled(path: Path, content: bytes | str) -> None:
    """As if written a minute ago, and not to be left for the next look."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.stat().st_mtime - 60
    os.utime(path, (before, before))


def _built(
    subject: x509.Name,
    issuer: x509.Name,
    key: CertificateIssuerPrivateKeyTypes,
    issuer_key: CertificateIssuerPrivateKeyTypes,
    starts: int,
    ends: int,
    extension: x509.ExtensionType,
    critical: bool = False,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts * DAY)
        .not_valid_after(now + ends * DAY)
        .add_extension(names, critical=False)
        .add_extension(extension, critical=critical)
        .sign(issuer_key, hashes.SHA256())
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
