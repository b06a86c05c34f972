"""Addresses to listen on, HOST:PORT: taken apart, and tried before anything is built on them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from engine.errors import ServerError, UsageError


def host_and_port(address: str, flag: str) -> tuple[str, int]:
    """The two parts of what the flag was given. Raises UsageError."""
    host, separator, port = address.rpartition(":")
    if not (separator and host and port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise UsageError(f"{flag} is {address!r}; expected HOST:PORT with a port from 0 to 65535, as 127.0.0.1:50051")
    return host, int(port)


def require_free(address: str, flag: str) -> tuple[str, int]:
    """Try the address with a plain socket, which says why it fails; gRPC does not. Returns its parts.

    Raises UsageError, ServerError.
    """
    host, port = host_and_port(address, flag)
    with _listening_at(address, flag) as (probe, where), probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)
        probe.listen()
    return host, port


def held(address: str, flag: str) -> tuple[socket.socket, str]:
    """A socket that holds the address for others that share it (SO_REUSEPORT), and the address with the port taken.

    It does not listen, so it gets no connections. Raises UsageError, ServerError.
    """
    host, _ = require_free(address, flag)
    with _listening_at(address, flag) as (holder, where):
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Connections that a server without workers left behind keep the port for a minute otherwise. Only now:
        # a program that wants the port while every worker is away must not get it.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(where)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        return holder, f"{host}:{holder.getsockname()[1]}"


@contextlib.contextmanager
def _listening_at(address: str, flag: str) -> Iterator[tuple[socket.socket, Any]]:
    """A socket of the address's kind, and where to bind it; what goes wrong inside says what to do.

    Raises UsageError, ServerError, and then closes the socket.
    """
    host, port = host_and_port(address, flag)
    with contextlib.ExitStack() as stack:
        try:
            family, kind, _, _, where = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
            made = stack.enter_context(socket.socket(family, kind))
            yield made, where
        except ValueError as error:  # UnicodeError most of all: names are encoded before they are looked up
            raise UsageError(f"{flag} is {address!r}; {host!r} cannot be the name of a host: {error}") from error
        except OSError as error:
            raise ServerError(
                f"cannot listen on {address}: {error.strerror or error}. Stop the program that holds the port, or "
                f"choose another address with {flag} HOST:PORT (port 0 takes a free one)"
            ) from error
        stack.pop_all()


def next_port(address: str) -> str:
    """Loopback, at the port after that of the --address; a free one where that is 0."""
    _, port = host_and_port(address, "--address")
    return f"127.0.0.1:{port + 1 if 0 < port < 65_535 else 0}"
