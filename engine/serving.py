"""What answers, as the rest of a server sees it: one worker in this process, or a group of worker processes.

engine.worker is the one, engine.worker_group the other. engine.server decides and does not look again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Figures = Mapping[str, Any]
"""What a worker tells of itself, in JSON's values: see engine.worker.Worker.figures."""
THREADS = {"grpcio": 4, "native": 1}
"""How many threads of a worker answer where nobody says otherwise, by its transport. A worker has one core. With one
thread grpcio leaves it idle while it sends (4,700 to 6,200 empty calls a second, with four 7,000 to 7,700); threads
that native does not need only get into one another's way."""


@dataclass(frozen=True)
class WorkerOptions:
    """How one worker answers; in JSON's values and paths, because they travel to other processes.

    `threads` answer at the same time, of `max_in_flight` calls that are let in. With `share_port` other workers listen
    at the same address. Spans go to the collector at `traces`, "" for none.
    """

    address: str = "127.0.0.1:50051"
    transport: str = "grpcio"
    threads: int = THREADS["grpcio"]
    max_in_flight: int = 1024
    max_concurrent_streams: int = 1024
    max_connection_age_seconds: float = 0.0
    max_message_bytes: int = 4 * 1024 * 1024
    recall_sample_share: float = 0.0
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tokens: Path | None = None
    traces: str = ""
    share_port: bool = False


class Loaded(Protocol):
    """A release that was loaded, and may be served."""

    @property
    def release_id(self) -> str:
        """The release's name."""


class Serving(Protocol):
    """What answers. Thread-safe once it was started."""

    @property
    def address(self) -> str:
        """HOST:PORT, once it is bound."""

    def bind(self) -> None:
        """Take the port. Raises UsageError, ServerError."""

    def start(self) -> None:
        """Begin to take calls; there is nothing to answer with yet. Raises ServerError."""

    def load(self, path: Path) -> Loaded:
        """Open, check and warm a release beside the one that serves. Raises ReleaseError."""

    def serve(self, loaded: Any) -> None:
        """Answer from what `load` gave from now on; calls under way finish on the release that they began with."""

    def set_healthy(self, healthy: bool) -> None:
        """What health says, until `drain`."""

    def drain(self) -> None:
        """Say NOT_SERVING for good, and go on answering."""

    def stop(self, grace_seconds: float) -> None:
        """Take no new calls, and end those under way after so long."""

    @property
    def is_busy(self) -> bool:
        """After `stop`: whether a thread still works."""

    def figures(self) -> list[Figures]:
        """What each worker tells of itself; a worker that is gone is left out."""

    @property
    def n_restarts(self) -> int:
        """Workers that were started again because they ended."""
