"""The connections of a client: how many, how they retry, how they are kept, and what guards them.

Retries, their back-off and the round robin over addresses are gRPC's own, by SERVICE_CONFIG; docs/wire.md has it for
other languages, with what it does. One connection reaches one process: where several share a port the kernel spreads
connections over them, not calls. So a client has several, each with sockets of its own, and takes them in turn. Kept
honest by tests/test_connections.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from engine import keepalive
from engine.credentials import ClientTls, authorization, require_safe, stays_here, token_source
from engine.errors import ClientError

DEFAULT_CONNECTIONS = 8
"""Of one client. A single client with eight of them reaches 3.6 of 4 worker processes on average, with four 2.7."""
MAX_CONNECTIONS = 1_000
MAX_REQUEST_BYTES = 4 * 1024 * 1024
"""The largest request that a server accepts unless it was started with another limit, and the largest that is kept to
be sent again: gRPC's own default is 256 KiB, and beyond it the first failure is the last.
"""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""The largest answer accepted: the largest batch with ids of the largest length."""
FIRST_RECONNECT_SECONDS = 0.1
"""Until a failed connection is tried again, at first; gRPC's default, 1 s, is longer than all attempts of a call."""
LAST_RECONNECT_SECONDS = 5.0
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "nearcart.v1.RecommendationService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 1000, "tokenRatio": 0.1},
}
"""For other clients to copy: round robin over all addresses, up to five attempts, and a budget for them.

Of the budget of 1000 tokens each failed attempt takes one and each answer gives a tenth back; with 500 or fewer nothing
is tried again. A smaller budget, 10 tokens say, is spent by the calls that one killed process takes with it.
"""


@dataclass(frozen=True)
class Connections:
    """Where to, how many, and with what. Raises ClientError for what does not go together."""

    address: str
    number: int = DEFAULT_CONNECTIONS
    tls: ClientTls | None = None
    token: Callable[[], str] | None = None
    """Gives the token of a call."""

    @classmethod
    def of(
        cls,
        address: str,
        number: int,
        tls: ClientTls | None,
        token: str | Callable[[], str] | None,
        token_file: Path | None,
        allow_plaintext: bool,
    ) -> Connections:
        """Of what a client was given. Raises ClientError."""
        if not 1 <= number <= MAX_CONNECTIONS:
            raise ClientError(f"connections: found {number}, expected 1 to {MAX_CONNECTIONS}")
        source = token_source(token, token_file)
        if source is not None:
            require_safe(address, has_tls=tls is not None, allow_plaintext=allow_plaintext)
        return cls(address, number, tls, source)

    def open(self) -> list[grpc.Channel]:
        """Channels that connect when first used."""
        credentials = self._credentials
        if credentials is None:
            return [grpc.insecure_channel(self.address, options=self._options) for _ in range(self.number)]
        return [grpc.secure_channel(self.address, credentials, options=self._options) for _ in range(self.number)]

    def open_async(self) -> list[aio.Channel]:
        """The same for the event loop that runs."""
        credentials = self._credentials
        if credentials is None:
            return [aio.insecure_channel(self.address, options=self._options) for _ in range(self.number)]
        return [aio.secure_channel(self.address, credentials, options=self._options) for _ in range(self.number)]

    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """What goes with a call. Raises ClientError."""
        return authorization(self.token)

    @cached_property
    def _credentials(self) -> grpc.ChannelCredentials | None:
        return None if self.tls is None else self.tls.channel_credentials()

    @property
    def _options(self) -> list[tuple[str, Any]]:
        return [
            ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
            # Without it channels to one address share one connection.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", round(FIRST_RECONNECT_SECONDS * 1000)),
            ("grpc.max_reconnect_backoff_ms", round(LAST_RECONNECT_SECONDS * 1000)),
            ("grpc.per_rpc_retry_buffer_size", MAX_REQUEST_BYTES),
            ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
            # A proxy that the environment names is another machine, and would get the token.
            ("grpc.enable_http_proxy", 0 if stays_here(self.address) else 1),
            *keepalive.CLIENT_OPTIONS,
        ]
