"""What may listen where: which addresses other machines reach, and what protects a port that they do.

Addresses are taken apart in `engine.addresses`. Nothing is bound here, so that a wrong combination of flags is refused
before anything starts. Kept honest by tests/test_exposure.py; docs/operations.md has the rules as a table.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from dataclasses import dataclass

from engine.addresses import host_and_port
from engine.errors import ServerError, UsageError

_UNIX = ("unix:", "unix-abstract:")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exposure:
    """The addresses of a server and what guards them; an empty address is not listened at."""

    address: str
    admin_address: str = ""
    metrics_address: str = ""
    has_tls: bool = False
    has_tokens: bool = False
    allow_plaintext: bool = False

    def check(self) -> None:
        """Log a warning for each risk that was asked for. Raises UsageError for the others, ServerError for a host
        that cannot be looked up.
        """
        if not is_loopback(self.address, "--address"):
            self._check_service()
        if self.admin_address and not is_loopback(self.admin_address, "--admin-address"):
            self._check_admin()
        if self.metrics_address and not is_loopback(self.metrics_address, "--metrics-address"):
            # No warning: this is how Prometheus reads it, and a warning that everybody has is read by nobody.
            logger.info(
                "metrics at %s can be read from other machines, over plain HTTP: counts, times, names of releases",
                self.metrics_address,
            )

    def _check_service(self) -> None:
        if self.has_tls:
            return
        if not self.allow_plaintext:
            raise UsageError(
                f"--address is {self.address}, which other machines reach, and there is no TLS; expected "
                "--tls-certificate and --tls-key, or an address on loopback as 127.0.0.1:50051, or --allow-plaintext "
                "where something else guards the way, a mesh for one"
            )
        logger.warning(
            "plaintext at %s, which other machines reach: whoever is on the way reads and changes questions and "
            "answers%s",
            self.address,
            ", and takes the tokens" if self.has_tokens else ", and whoever reaches it may ask",
        )

    def _check_admin(self) -> None:
        missing = [
            flags
            for flags, is_there in (
                ("--tls-certificate and --tls-key", self.has_tls),
                ("--tokens", self.has_tokens),
            )
            if not is_there
        ]
        if missing:
            raise UsageError(
                f"--admin-address is {self.admin_address}, which other machines reach, without "
                f"{' and '.join(missing)}; who administrates decides what is served: expected TLS and tokens, or an "
                "address on loopback as 127.0.0.1:50052 (--allow-plaintext does not change this)"
            )


def is_loopback(address: str, flag: str) -> bool:
    """Whether only this machine reaches the address: every one that the host's name stands for is loopback.

    So 0.0.0.0 and :: are not, and unix:PATH is. Raises UsageError, ServerError.
    """
    if address.startswith(_UNIX):
        return True
    host, port = host_and_port(address, flag)
    try:
        found = socket.getaddrinfo(host.removeprefix("[").removesuffix("]"), port, type=socket.SOCK_STREAM)
    except ValueError as error:  # UnicodeError most of all: names are encoded before they are looked up
        raise UsageError(f"{flag} is {address!r}; {host!r} cannot be the name of a host: {error}") from error
    except OSError as error:
        raise ServerError(
            f"cannot listen on {address}: {error.strerror or error}. Give {flag} a name or number of this machine"
        ) from error
    return all(_is_loopback_number(str(where[0])) for *_, where in found)


def _is_loopback_number(number: str) -> bool:
    parsed = ipaddress.ip_address(number)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
