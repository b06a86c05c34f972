"""What a client shows a server: certificates, and a bearer token that is sent to nobody who should not have it.

A token is in no error, no log and no repr. Over plaintext it goes to this machine only, unless that was allowed. Kept
honest by tests/test_credentials.py.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from engine.errors import ClientError
from engine.tokens import HEADER

_TOKEN = re.compile(r"[\x21-\x7e]+")
"""What a header may hold: printable ASCII, and no space within a token."""
_EXPECTED = "expected one word of printable ASCII letters"
_SCHEMES = ("dns:", "ipv4:", "ipv6:")
_SOCKETS = ("unix:", "unix-abstract:")


@dataclass(frozen=True)
class ClientTls:
    """Talk TLS. PEM files: the certificates to trust (without them those that gRPC brings, or those that the variable
    GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names), and for mutual TLS the client's certificate with its key.

    They are read when a client is made: to use others, make another client.
    """

    root_certificates: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """As gRPC wants them. Raises ClientError."""
        if (self.certificate is None) != (self.key is None):
            found, missing = ("certificate", "key") if self.key is None else ("key", "certificate")
            raise ClientError(f"TLS: found a client's {found} without its {missing}; expected both, or neither")
        roots, certificate, key = (
            _pem(path, what)
            for path, what in (
                (self.root_certificates, "certificates to trust"),
                (self.certificate, "the client's certificate"),
                (self.key, "the client's key"),
            )
        )
        return grpc.ssl_channel_credentials(roots, key, certificate)


class TokenFile:
    """The token in a file, read again when the file is another one or was written: call it for the present one.

    A file that cannot be read any more leaves the token it had: whoever replaces it may take it away for a moment.
    Raises ClientError where the first look finds no token. For any thread.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[object, str] = self._look(None)

    def __call__(self) -> str:
        """The token that the file has now. Raises ClientError where it is there and holds none."""
        try:
            self._read = self._look(self._read)
        except ClientError:
            if self._path.exists():  # it is there and holds no token: that is not a moment
                raise
        return self._read[1]

    def __repr__(self) -> str:
        return f"TokenFile({str(self._path)!r})"

    def _look(self, known: tuple[object, str] | None) -> tuple[object, str]:
        try:
            status = self._path.stat()
            state = (status.st_ino, status.st_mtime_ns, status.st_size)
            if known is not None and state == known[0]:
                return known
            content = self._path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            what = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
            raise ClientError(
                f"the token file {self._path} cannot be read: {what}. Expected a file with the token alone"
            ) from None
        return state, checked(content.strip(), f"the token file {self._path}")


def token_source(token: str | Callable[[], str] | None, token_file: Path | None) -> Callable[[], str] | None:
    """What gives the token of each call; None where none is sent. Raises ClientError."""
    if token is not None and token_file is not None:
        raise ClientError("found a token and a token file; expected one of the two")
    if token_file is not None:
        return TokenFile(token_file)
    if token is None or callable(token):
        return token
    fixed = checked(token, "the token")
    return lambda: fixed


def authorization(source: Callable[[], str] | None) -> tuple[tuple[str, str], ...] | None:
    """The metadata of a call. Raises ClientError."""
    if source is None:
        return None
    token = source()
    return ((HEADER, f"Bearer {token if isinstance(source, TokenFile) else checked(token, 'the token')}"),)


def checked(token: object, where: str) -> str:
    """The token, if it is one. Raises ClientError, which does not quote it."""
    if not isinstance(token, str):
        raise ClientError(f"{where}: found a {type(token).__name__}, expected text")
    if not _TOKEN.fullmatch(token):
        found = f"{len(token)} characters, some of which a header cannot carry" if token else "nothing"
        raise ClientError(f"{where}: found {found}; {_EXPECTED}")
    return token


def require_safe(address: str, *, has_tls: bool, allow_plaintext: bool) -> None:
    """Raises ClientError where a token would leave this machine without TLS."""
    if has_tls or allow_plaintext or stays_here(address):
        return
    raise ClientError(
        f"a token would go to {address} without TLS, where whoever is on the way can take it; expected TLS "
        "(tls=ClientTls(...), --tls-ca FILE), a loopback address, or allow_plaintext=True (--allow-plaintext) where "
        "something else guards the way, a mesh for one"
    )


def stays_here(address: str) -> bool:
    """Whether a gRPC name leads to this machine by what it says: loopback numbers, localhost, Unix sockets.

    Other names are not looked up: who answers for them can change.
    """
    if address.startswith(_SOCKETS):
        return True
    scheme = next((each for each in _SCHEMES if address.startswith(each)), "")
    listed = address.removeprefix(scheme)
    if scheme == "dns:" and listed.startswith("//"):  # dns://[resolver]/name
        listed = listed[2:].partition("/")[2]
    return all(_is_loopback(each) for each in listed.lstrip("/").split(","))


def _is_loopback(address: str) -> bool:
    if address.startswith("["):
        host = address[1:].partition("]")[0]
    else:
        host = address if address.count(":") > 1 else address.partition(":")[0]
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _pem(path: Path | None, what: str) -> bytes | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ClientError(f"TLS: {what} cannot be read from {path}: {error.strerror}. Expected a PEM file") from error
    if b"-----BEGIN " not in content:
        raise ClientError(f"TLS: {what} in {path} are not PEM; expected a block that starts with -----BEGIN")
    return content
