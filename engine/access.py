"""A port as its options say: where it listens, what it is encrypted with, and who is let in."""

from __future__ import annotations

import grpc

from engine.addresses import host_and_port, require_free
from engine.calls import Guard
from engine.certificates import ServerTls
from engine.errors import ServerError
from engine.serving import WorkerOptions
from engine.tokens import Role, Tokens, header_in
from engine.transport import Transport


def bind(transport: Transport, address: str, flag: str, *, shared: bool = False) -> str:
    """Listen; returns the address with the port that was taken. Raises UsageError or ServerError."""
    host, _ = host_and_port(address, flag) if shared else require_free(address, flag)
    try:
        return f"{host}:{transport.bind(address)}"
    except RuntimeError as error:
        raise ServerError(
            f"cannot listen on {address}: {error}. Choose another with {flag} HOST:PORT; with TLS it may be the kind "
            "of key, which gRPC does not take"
        ) from error


def credentials_of(options: WorkerOptions) -> grpc.ServerCredentials | None:
    """New ones for each port: gRPC tells one port alone of certificates that were replaced. Raises UsageError."""
    tls = ServerTls.of(options.tls_certificate, options.tls_key, options.tls_client_ca)
    return None if tls is None else tls.credentials()


def guard_of(options: WorkerOptions, role: Role) -> Guard | None:
    """What lets in those who present a token of a role, None where no token is asked for. Raises UsageError."""
    if options.tokens is None:
        return None
    tokens = Tokens(options.tokens)
    return lambda metadata: tokens.require(header_in(metadata), role)
