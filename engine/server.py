"""The server: who may reach it, administration, metrics, start and end. What answers is an `engine.serving.Serving`.

With one worker everything is in this process; with more this process watches over those that answer, holds their port,
and decides which release they serve. Health says SERVING only while a release is loaded and sound. Kept honest by
tests/test_server.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

from engine import admin
from engine.access import bind, credentials_of, guard_of
from engine.addresses import next_port
from engine.calls import Calls
from engine.exposure import Exposure
from engine.grpcio_transport import GrpcioTransport
from engine.health import Health, standard_services
from engine.holder import Releases, SnapshotHolder
from engine.priority import gentle_thread
from engine.server_metrics import MetricsServer, ServerMetrics
from engine.serving import Serving, WorkerOptions
from engine.tokens import Role
from engine.transport import Transport, TransportOptions

STOP_GRACE_SECONDS = 10.0
"""How long calls in flight may take when the server stops."""
NEXT_PORT = "next"
"""The admin address that means: loopback, the port after the service's, or a free one where that is 0."""
_ADMIN_THREADS = 4
_STARTED = 0
"""Among the numbers of signals: the start is over, well or not."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerOptions:
    """How to serve. Addresses are HOST:PORT, port 0 takes a free one; an empty `admin_address` means no admin service,
    an empty `metrics_address` no metrics, and then no recall is sampled either.

    `workers` answer as `worker` says; `drain_seconds` pass between health saying NOT_SERVING and the refusal of new
    calls, for load balancers to notice; `poll_seconds` between looks at CURRENT, 0 never. Ranges are checked at the
    flags, in `engine.serve_command`, and nowhere else.
    """

    releases: Path
    worker: WorkerOptions = field(default_factory=WorkerOptions)
    workers: int = 1
    admin_address: str = NEXT_PORT
    metrics_address: str = ""
    drain_seconds: float = 0.0
    poll_seconds: float = 5.0
    verify_after_start: bool = True
    allow_plaintext: bool = False

    @property
    def admin(self) -> str:
        """Where the admin service listens, as HOST:PORT, "" where there is none."""
        return next_port(self.worker.address) if self.admin_address == NEXT_PORT else self.admin_address


@dataclass(frozen=True)
class Backend:
    """What is behind a server: its releases, and what answers from them."""

    releases: Releases
    serving: Callable[[WorkerOptions, int], Serving]
    """Of how each worker answers, and how many there are."""

    @classmethod
    def of(cls, directory: Path, log_format: str = "text") -> Backend:
        """The real thing; `log_format` is that of worker processes."""
        from engine.repository import Repository

        return cls(Repository(directory), partial(_serving, log_format=log_format))


class Server:
    """A server that answers between `start` and `stop`, or inside `with`. Signals are `run_server`'s business."""

    def __init__(self, options: ServerOptions, backend: Backend | None = None) -> None:
        self.admin_address = ""
        self.metrics_address = ""
        self._options = options
        backend = backend or Backend.of(options.releases)
        worker = options.worker if options.metrics_address else replace(options.worker, recall_sample_share=0.0)
        self.serving = backend.serving(worker, options.workers)
        self.holder = SnapshotHolder(
            backend.releases,
            self.serving.load,
            poll_seconds=options.poll_seconds,
            verify=options.verify_after_start,
            on_swap=self.serving.serve,
            on_health=self.serving.set_healthy,
        )
        self._metrics: MetricsServer | None = None
        self._admin_health = Health(admin.NAME)
        self._admin: Transport | None = None

    @property
    def address(self) -> str:
        """Where the service answers."""
        return self.serving.address

    def start(self) -> None:
        """Bind, load the current release, and say SERVING. Ports come first: a taken one costs no minutes of loading.

        Raises UsageError, ServerError or ReleaseError, and then holds nothing.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self, *, drain: Callable[[float], None] | None = None) -> None:
        """Say NOT_SERVING, let `drain` wait for load balancers, refuse new calls, end those in flight.

        What is still being worked on after the grace period goes on without anyone to answer to: see `is_busy`.
        """
        self.serving.drain()
        self._admin_health.shut_down()
        if drain is not None and self._options.drain_seconds > 0:
            drain(self._options.drain_seconds)
        wait = None if self._admin is None else self._admin.stop(STOP_GRACE_SECONDS)
        self.serving.stop(STOP_GRACE_SECONDS)
        self._admin_health.end_watches()
        if wait is not None:
            wait()
        self.holder.stop()
        if self._metrics is not None:
            self._metrics.stop()
            self._metrics = None

    @property
    def is_busy(self) -> bool:
        """Whether calls are being answered or a thread of ours runs; after `stop`, what did not end in time."""
        return self.serving.is_busy or self.holder.is_busy or (self._admin is not None and self._admin.is_busy)

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        options, worker = self._options, self._options.worker
        Exposure(
            worker.address,
            options.admin,
            options.metrics_address,
            has_tls=worker.tls_certificate is not None,
            has_tokens=worker.tokens is not None,
            allow_plaintext=options.allow_plaintext,
        ).check()
        self.serving.bind()
        if options.admin:
            self._admin = self._admin_transport()
            self.admin_address = bind(self._admin, options.admin, "--admin-address")
        if options.metrics_address:
            self._metrics = MetricsServer(ServerMetrics(self.serving, self.holder), options.metrics_address)
            self.metrics_address = self._metrics.address
        self.serving.start()
        if self._admin is not None:
            self._admin.start()
        self._admin_health.set(True)
        self.holder.start()
        logger.info(
            "answering at %s, admin at %s, metrics at %s",
            self.address,
            self.admin_address or "no port",
            self.metrics_address or "no port",
        )

    def _admin_transport(self) -> Transport:
        worker = self._options.worker
        calls = Calls(admin.AdminService(self.holder, self.serving).methods(), guard=guard_of(worker, Role.ADMIN))
        options = TransportOptions(threads=_ADMIN_THREADS, credentials=credentials_of(worker))
        # Whoever administrates loads releases: that gives way to answering.
        return GrpcioTransport(calls, options, standard_services(self._admin_health, admin.NAME), gentle_thread)


def run_server(
    options: ServerOptions, *, on_ready: Callable[[str], None] | None = None, backend: Backend | None = None
) -> None:
    """Serve until SIGTERM or SIGINT; a second one cuts draining short. Only for the main thread.

    `on_ready` gets the bound HOST:PORT as soon as it answers; by default it is printed on a line of its own. A signal
    before that ends the start. Where a load, a check or an answer outlasts the stop, the process ends here, with exit
    code 0, instead of waiting for it. Raises UsageError, ServerError or ReleaseError.
    """
    # A SimpleQueue may be filled from a signal handler; an Event may not, its lock can be held by this very thread.
    news: queue.SimpleQueue[int] = queue.SimpleQueue()

    def handle(number: int, frame: FrameType | None) -> None:
        news.put(number)

    def drain(seconds: float) -> None:
        logger.info("draining for %g seconds", seconds)
        with contextlib.suppress(queue.Empty):
            news.get(timeout=seconds)

    # Before all else: as the first process of a container, a program without a handler ignores SIGTERM.
    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server = Server(options, backend)
        # Beside this thread, so that a signal is heard during minutes of loading and need not interrupt any of it.
        starter = ThreadPoolExecutor(1, "nearcart-start")
        starting = starter.submit(server.start)
        starting.add_done_callback(lambda _: news.put(_STARTED))
        starter.shutdown(wait=False)
        number, ready = news.get(), False
        try:
            if number == _STARTED:
                starting.result()
                ready = True
                (on_ready or _print_address)(server.address)
                number = news.get()
            logger.info("%s: stopping", signal.Signals(number).name)
        finally:
            server.stop(drain=drain if ready else None)
            logger.info("stopped")
        if server.is_busy or not starting.done():
            _end_process()
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def _serving(options: WorkerOptions, workers: int, log_format: str) -> Serving:
    """One worker here, or a group of processes, which this process then need not load FAISS for."""
    if workers > 1:
        from engine.worker_group import WorkerGroup

        return WorkerGroup(options, workers, log_format=log_format)
    from engine.worker import opened_worker

    return opened_worker(options)


def _end_process() -> NoReturn:
    """End with exit code 0 at once: Python's own way out waits for every thread, however long it works."""
    logger.warning(
        "ending in the middle of a load, a check, an answer or a sampled search: it took longer than the time to stop"
    )
    with contextlib.suppress(OSError, ValueError):  # nobody reads the output any more
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


def _print_address(address: str) -> None:
    print(address, flush=True)
