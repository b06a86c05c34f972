"""TLS for the server's ports: certificates that are checked before gRPC sees them, and read anew when they change.

gRPC takes whatever bytes it is given and fails at the handshake, with a line of C++ in the log. So each pair is first
tried in memory by the standard library: a whole handshake between two of its own contexts, which proves that the key
belongs to the certificate, that a client can accept it, and how long it holds. What clients must show is decided by
gRPC. Kept honest by tests/test_certificates.py.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from engine.errors import UsageError
from engine.watched_files import Contents, WatchedFiles, warn_if_others_may_read

CERTIFICATE_FLAG = "--tls-certificate"
KEY_FLAG = "--tls-key"
CLIENT_CA_FLAG = "--tls-client-ca"
WARNING_DAYS = 7
"""A certificate that ends sooner is warned of when it is read."""
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, which `ssl` does not name: we compare the dates ourselves, to say what they are."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerTls:
    """The files: PEM, the certificate with the chain to its authority, the key without a password.

    With `client_ca`, clients must show a certificate that one of its authorities signed.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @classmethod
    def of(cls, certificate: Path | None, key: Path | None, client_ca: Path | None) -> ServerTls | None:
        """What the three flags say together; None without any of them. Raises UsageError."""
        if certificate is not None and key is not None:
            return cls(certificate, key, client_ca)
        if certificate is None and key is None and client_ca is None:
            return None
        given = {CERTIFICATE_FLAG: certificate, KEY_FLAG: key, CLIENT_CA_FLAG: client_ca}
        raise UsageError(
            f"{' and '.join(flag for flag, path in given.items() if path is not None)} given without "
            f"{' and '.join(flag for flag in (CERTIFICATE_FLAG, KEY_FLAG) if given[flag] is None)}; TLS needs both "
            f"{CERTIFICATE_FLAG} and {KEY_FLAG}, and {CLIENT_CA_FLAG} may come with them"
        )

    def credentials(self, clock: Callable[[], float] = time.monotonic) -> grpc.ServerCredentials:
        """For one port: gRPC is told once of each change, so a second port needs credentials of its own.

        At a handshake, but at most once a second, the files are looked at. New ones that hold up are used from that
        handshake on; connections that stand are left alone. Others are logged, once for each change, and the former
        ones stay in use. Raises UsageError.
        """
        files = {CERTIFICATE_FLAG: self.certificate, KEY_FLAG: self.key}
        if self.client_ca is not None:
            files[CLIENT_CA_FLAG] = self.client_ca
        watched = WatchedFiles(files, partial(_configuration, files), "certificates", clock)

        def changed() -> Any:
            if not watched.refresh():
                return None
            logger.info("certificates read anew from %s", ", ".join(str(path) for path in files.values()))
            return watched.value

        return grpc.dynamic_ssl_server_credentials(
            watched.value, changed, require_client_authentication=self.client_ca is not None
        )


def _configuration(files: Mapping[str, Path], contents: Contents) -> Any:
    """What gRPC takes, a grpc.ServerCertificateConfiguration. Raises UsageError."""
    chain, key = contents[CERTIFICATE_FLAG], contents[KEY_FLAG]
    _check_dates(_try(files, chain), f"{CERTIFICATE_FLAG} {files[CERTIFICATE_FLAG]}")
    warn_if_others_may_read(files[KEY_FLAG], KEY_FLAG)
    if CLIENT_CA_FLAG not in contents:
        return grpc.ssl_server_certificate_configuration([(key, chain)])
    where = f"{CLIENT_CA_FLAG} {files[CLIENT_CA_FLAG]}"
    authorities: list[Mapping[str, Any]] = list(_trusting(contents[CLIENT_CA_FLAG], where).get_ca_certs())
    if not authorities:
        raise UsageError(f"{where} has certificates, but none of an authority; expected those that sign the clients'")
    started = [each for each in authorities if ssl.cert_time_to_seconds(each["notBefore"]) <= time.time()]
    _check_dates(max(started or authorities, key=_end), where)  # while authorities change, the old one may be over
    return grpc.ssl_server_certificate_configuration([(key, chain)], contents[CLIENT_CA_FLAG])


def _try(files: Mapping[str, Path], chain: bytes) -> Mapping[str, Any]:
    """Shake hands with ourselves; the server's certificate as the client sees it. Raises UsageError."""
    where = f"{CERTIFICATE_FLAG} {files[CERTIFICATE_FLAG]}"
    outgoing, incoming = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = _trusting(chain, where).wrap_bio(incoming, outgoing)
    server = _serving(files).wrap_bio(outgoing, incoming, server_side=True)
    try:
        for side in (client, server, client, server):  # TLS 1.3 needs three of the four
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
        return client.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        raise UsageError(
            f"{where} would be refused by clients: {error.verify_message}. Expected a certificate for a TLS server"
        ) from error
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(f"{where} cannot serve TLS: {_reason(error)}. Expected {_GOOD_KEYS}") from error


_GOOD_KEYS = "a certificate with an RSA key of 2048 bits or more, or one on the curve P-256 or P-384"


def _trusting(certificates: bytes, where: str) -> ssl.SSLContext:
    """A client that trusts these certificates and nothing else. Raises UsageError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    try:
        context.load_verify_locations(cadata=certificates.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:  # a UnicodeDecodeError, or an empty file
        raise UsageError(
            f"{where} holds no sound certificate: {_reason(error)}. Expected PEM: -----BEGIN CERTIFICATE----- and so on"
        ) from error
    return context


def _serving(files: Mapping[str, Path]) -> ssl.SSLContext:
    """A server with the certificate and the key. Raises UsageError."""
    certificate, key = files[CERTIFICATE_FLAG], files[KEY_FLAG]
    asked: list[bool] = []

    def password() -> str:
        asked.append(True)
        return ""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        reason = _reason(error)
        if asked:
            raise UsageError(
                f"{KEY_FLAG} {key} is encrypted; expected a key without a password, in a file that only this user may "
                "read (openssl pkey removes the password)"
            ) from error
        if reason == "key values mismatch":
            raise UsageError(
                f"{KEY_FLAG} {key} does not belong to {CERTIFICATE_FLAG} {certificate}; expected the key that the "
                "first certificate of that file was made for: give two files of one issue"
            ) from error
        if "too small" in reason or "too weak" in reason or "unsupported" in reason:
            raise UsageError(f"{CERTIFICATE_FLAG} {certificate} is refused: {reason}. Expected {_GOOD_KEYS}") from error
        raise UsageError(
            f"{KEY_FLAG} {key} holds no sound private key: {reason}. Expected PEM: -----BEGIN PRIVATE KEY----- and so "
            "on"
        ) from error
    return context


def _check_dates(certificate: Mapping[str, Any], where: str) -> None:
    """Raises UsageError for a certificate that does not hold now; warns of one that ends soon."""
    start, end, now = ssl.cert_time_to_seconds(certificate["notBefore"]), _end(certificate), time.time()
    if now >= end:
        raise UsageError(f"{where} expired at {certificate['notAfter']}; expected one that holds now: renew it")
    if now < start:
        raise UsageError(
            f"{where} holds from {certificate['notBefore']} on; expected one that holds now: is this machine's clock "
            "right?"
        )
    if end - now < WARNING_DAYS * 86_400:
        logger.warning("%s expires at %s: renew it", where, certificate["notAfter"])


def _end(certificate: Mapping[str, Any]) -> int:
    return ssl.cert_time_to_seconds(certificate["notAfter"])


def _reason(error: Exception) -> str:
    """OpenSSL's reason in small letters: its own words, nothing of a file's content."""
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return reason.lower().replace("_", " ") if reason else "it is no PEM"
