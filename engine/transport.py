"""What a server needs of a transport: a port, and calls brought to `engine.calls.Calls` and answered.

Two are there: engine.grpcio_transport, which can do everything, and engine.native_transport, which is several times
faster and speaks plaintext only. Nothing else knows which one runs; tests/test_transports.py holds both to one suite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import grpc


@dataclass(frozen=True)
class TransportOptions:
    """What holds for every connection and call of one port."""

    threads: int = 4
    max_message_bytes: int = 4 * 1024 * 1024
    max_concurrent_streams: int = 1024
    max_connection_age_seconds: float = 0.0
    """0 for connections without an end."""
    share_port: bool = False
    """Whether other processes listen at the same port (SO_REUSEPORT)."""
    credentials: grpc.ServerCredentials | None = None


class Transport(Protocol):
    """A port whose calls go to the Calls that it was made with, beside health and reflection."""

    def bind(self, address: str) -> int:
        """Listen at HOST:PORT; returns the port. Raises RuntimeError."""

    def start(self) -> None:
        """Begin to take calls."""

    def stop(self, grace_seconds: float) -> Callable[[], None]:
        """Take no new calls, and end those under way after so long; returns what waits until that is done."""

    @property
    def n_waiting(self) -> int:
        """Calls that were let in and wait for a thread."""

    @property
    def is_busy(self) -> bool:
        """Whether a thread still works on a call."""
