"""A worker: a port, what may call it, and the releases that it answers from.

It is told what to load and to serve and decides nothing: engine.holder does, in this process or in another one. Kept
honest by tests/test_worker.py.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine import service
from engine.access import bind, credentials_of, guard_of
from engine.call_metrics import CallMetrics
from engine.calls import Calls
from engine.errors import ReleaseNotFound, ServerError
from engine.grpcio_transport import GrpcioTransport
from engine.health import Health, standard_services
from engine.native_transport import NativeTransport
from engine.recall_sampling import RecallSampler
from engine.service import ServedSnapshot
from engine.serving import Figures, WorkerOptions
from engine.tokens import Role
from engine.traces import Traces
from engine.transport import Transport, TransportOptions

if TYPE_CHECKING:
    from engine.retrieval import SearchWatch

TRANSPORTS: dict[str, Callable[..., Transport]] = {"grpcio": GrpcioTransport, "native": NativeTransport}
"""By the name that --transport gives them."""
OpenSnapshot = Callable[[Path, "SearchWatch | None"], ServedSnapshot]
"""Opens a release and warms it; tells the watch of its searches. Raises ReleaseError."""


class Worker:
    """See engine.serving.Serving. `prepare_thread` runs in each thread that answers or loads, before it does."""

    def __init__(
        self, options: WorkerOptions, open_snapshot: OpenSnapshot, prepare_thread: Callable[[], None] = lambda: None
    ) -> None:
        self.address = ""
        self.n_restarts = 0
        self._options, self._open, self._prepare = options, open_snapshot, prepare_thread
        # Both are replaced together, and read by calls without a lock.
        self._releases: tuple[ServedSnapshot, ...] = ()
        self._health = Health(service.NAME)
        self._sampler = RecallSampler(options.recall_sample_share, lambda: self._live_id)
        metrics = CallMetrics()
        self._traces = Traces(options.traces) if options.traces else None
        self._calls = Calls(
            service.RecommendationService(self.snapshot, metrics).methods(),
            most=options.max_in_flight,
            concurrency=options.threads,
            guard=guard_of(options, Role.QUERY),
            metrics=metrics,
            traces=self._traces,
        )
        self._transport = TRANSPORTS[options.transport](
            self._calls,
            TransportOptions(
                threads=options.threads,
                max_message_bytes=options.max_message_bytes,
                max_concurrent_streams=options.max_concurrent_streams,
                max_connection_age_seconds=options.max_connection_age_seconds,
                share_port=options.share_port,
                credentials=credentials_of(options),
            ),
            standard_services(self._health, service.NAME),
            prepare_thread,
        )

    def snapshot(self, release_id: str = "") -> ServedSnapshot:
        """What answers now, or the release of this name, while it is loaded.

        Raises ServerError where nothing is loaded yet, ReleaseNotFound.
        """
        releases = self._releases
        if not releases:
            raise ServerError("no release is loaded yet: try again in a moment, or ask the health service when")
        if not release_id or release_id == releases[0].release_id:
            return releases[0]
        for each in releases:
            if each.release_id == release_id:
                return each
        raise ReleaseNotFound(
            f"release {release_id[:128]!r} is not loaded here; loaded are: "
            f"{', '.join(each.release_id for each in releases)}. Leave `release_id` away for the live one"
        )

    def bind(self) -> None:
        """As the protocol says."""
        self.address = bind(self._transport, self._options.address, "--address", shared=self._options.share_port)

    def start(self) -> None:
        """As the protocol says."""
        if self._options.recall_sample_share:
            self._sampler.start()
        self._transport.start()

    def load(self, path: Path) -> ServedSnapshot:
        """As the protocol says."""
        for each in self._releases[1:]:  # the one before is still loaded: going back to it takes no time
            if each.release_id == path.name:
                return each
        self._prepare()
        return self._open(path, self._sampler if self._options.recall_sample_share else None)

    def serve(self, loaded: ServedSnapshot) -> None:
        """As the protocol says. The release before stays loaded, for calls that name it and for going back."""
        if not self._releases:
            # All that was imported and loaded stays. Looking through it for garbage would take tens of milliseconds,
            # again and again, with every call waiting.
            gc.collect()
            gc.freeze()
        others = [each for each in self._releases if each.release_id != loaded.release_id]
        self._releases = (loaded, *others[:1])

    def set_healthy(self, healthy: bool) -> None:
        """As the protocol says."""
        self._health.set(healthy)

    def drain(self) -> None:
        """As the protocol says."""
        self._health.shut_down()

    def stop(self, grace_seconds: float) -> None:
        """As the protocol says."""
        self._health.shut_down()
        wait = self._transport.stop(grace_seconds)
        self._health.end_watches()
        wait()
        self._sampler.stop()
        if self._traces is not None:
            self._traces.stop()

    @property
    def is_busy(self) -> bool:
        """As the protocol says."""
        return self._transport.is_busy or self._sampler.is_busy

    def figures(self) -> list[Figures]:
        """As the protocol says; of this one."""
        index = self._releases[0].manifest.get("index") or {} if self._releases else {}
        return [
            {
                **self._calls.figures(),
                "waiting": self._transport.n_waiting,
                "worker": 0,
                "release_id": self._live_id,
                "loaded": [each.release_id for each in self._releases],
                "resident_bytes": resident_bytes(),
                "recall": {
                    "promised": index.get("promised_recall"),
                    "recalls": self._sampler.recalls(self._live_id).tolist(),
                    "sampled": self._sampler.n_sampled,
                    "dropped": self._sampler.n_dropped,
                },
            }
        ]

    @property
    def _live_id(self) -> str:
        return self._releases[0].release_id if self._releases else ""


def opened_worker(options: WorkerOptions) -> Worker:
    """A worker of real releases."""
    # Here, so that protocol, limits and errors can be tested and read about without loading FAISS.
    from engine.libraries import use_one_thread
    from engine.retrieval import Snapshot

    def opened(path: Path, watch: SearchWatch | None) -> Snapshot:
        snapshot = Snapshot.open(path, watch)
        service.warm(snapshot, snapshot.user_ids)
        return snapshot

    return Worker(options, opened, use_one_thread)


def resident_bytes() -> int:
    """Memory of this process that no other has: its share of what is mapped by several, and all of its own."""
    try:
        with Path("/proc/self/smaps_rollup").open(encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):  # no Linux
        return 0
