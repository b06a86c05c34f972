"""The server: sockets, threads, health, reflection, signals. What is answered stands in `engine.service`.

One process, a pool of threads, each FAISS call on one thread of its own. The admin service listens on a second port, on
the loopback interface unless told otherwise. Health says SERVING only while a release is loaded and sound. Kept honest
by tests/test_server.py.
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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from engine import admin, service
from engine.addresses import next_port, require_free
from engine.calls import Calls, Guard
from engine.certificates import ServerTls
from engine.errors import ServerError
from engine.exposure import Exposure
from engine.grpcio_transport import GrpcioTransport, Register
from engine.health import Health
from engine.holder import Releases, SnapshotHolder
from engine.native_transport import NativeTransport
from engine.recall_sampling import RecallSampler
from engine.server_metrics import MetricsServer, ServerMetrics
from engine.service import ServedSnapshot
from engine.tokens import Role, Tokens, header_in
from engine.transport import Transport, TransportOptions

if TYPE_CHECKING:
    from engine.retrieval import SearchWatch

STOP_GRACE_SECONDS = 10.0
"""How long calls in flight may take when the server stops."""
NEXT_PORT = "next"
"""The admin address that means: loopback, the port after the service's, or a free one where that is 0."""
TRANSPORTS: dict[str, Callable[..., Transport]] = {"grpcio": GrpcioTransport, "native": NativeTransport}
"""By the name that --transport gives them."""
_ADMIN_THREADS = 4
_STARTED = 0
"""Among the numbers of signals: the start is over, well or not."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerOptions:
    """How to serve. Addresses are HOST:PORT, port 0 takes a free one; an empty `admin_address` means no admin service,
    an empty `metrics_address` no metrics, and then nothing is sampled either.

    `threads` answer at the same time, of `max_in_flight` calls that are let in; `drain_seconds` pass between health
    saying NOT_SERVING and the refusal of new calls, for load balancers to notice; `poll_seconds` between looks at
    CURRENT, 0 never; of `recall_sample_share` of the searches the recall is measured. Ranges are checked at the flags,
    in `engine.commands`, and nowhere else.
    """

    releases: Path
    address: str = "127.0.0.1:50051"
    admin_address: str = NEXT_PORT
    metrics_address: str = ""
    transport: str = "grpcio"
    threads: int = 4
    max_in_flight: int = 1024
    max_concurrent_streams: int = 1024
    max_connection_age_seconds: float = 0.0
    drain_seconds: float = 0.0
    poll_seconds: float = 5.0
    max_message_bytes: int = 4 * 1024 * 1024
    verify_after_start: bool = True
    recall_sample_share: float = 0.001
    tls: ServerTls | None = None
    tokens: Tokens | None = None
    allow_plaintext: bool = False

    @property
    def admin(self) -> str:
        """Where the admin service listens, as HOST:PORT, "" where there is none."""
        return next_port(self.address) if self.admin_address == NEXT_PORT else self.admin_address

    def guard(self, role: Role) -> Guard | None:
        """What lets in those who present a token of a role, None where no token is asked for."""
        tokens = self.tokens
        return None if tokens is None else lambda metadata: tokens.require(header_in(metadata), role)

    def credentials(self) -> grpc.ServerCredentials | None:
        """New ones for each port: gRPC tells one port alone of certificates that were replaced."""
        return None if self.tls is None else self.tls.credentials()


@dataclass(frozen=True)
class Backend:
    """What is behind the service: releases, how to open one, and what a thread does before its first answer."""

    releases: Releases
    open_snapshot: Callable[[Path], ServedSnapshot]
    prepare_thread: Callable[[], None]

    @classmethod
    def of(cls, directory: Path, watch: SearchWatch | None = None) -> Backend:
        """The real thing."""
        # Here, so that protocol, limits and errors can be tested and read about without loading FAISS.
        from engine.libraries import use_one_thread
        from engine.repository import Repository
        from engine.retrieval import Snapshot

        return cls(Repository(directory), partial(Snapshot.open, watch=watch), use_one_thread)


class Server:
    """A server that answers between `start` and `stop`, or inside `with`. Signals are `run_server`'s business."""

    def __init__(self, options: ServerOptions, backend: Backend | None = None) -> None:
        self.address = ""
        self.admin_address = ""
        self.metrics_address = ""
        self._options = options
        self._metrics: MetricsServer | None = None
        self._sampler = RecallSampler(options.recall_sample_share, lambda: self.holder.status.release_id)
        self._stopped: list[Transport] = []
        self._samples = options.metrics_address != "" and options.recall_sample_share > 0
        self._backend = backend or Backend.of(options.releases, self._sampler if self._samples else None)
        self._health = Health(service.NAME)
        self._admin_health = Health(admin.NAME)
        self.holder = SnapshotHolder(
            self._backend.releases,
            self._backend.open_snapshot,
            poll_seconds=options.poll_seconds,
            verify=options.verify_after_start,
            on_health=self._health.set,
            prepare_thread=self._backend.prepare_thread,
        )
        self._calls = Calls(
            service.RecommendationService(self.holder).methods(),
            most=options.max_in_flight,
            concurrency=options.threads,
            guard=options.guard(Role.QUERY),
        )
        self._admin_calls = Calls(
            admin.AdminService(self.holder, self._calls).methods(), guard=options.guard(Role.ADMIN)
        )
        self._transports: list[Transport] = []

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
        self._health.shut_down()
        self._admin_health.shut_down()
        if drain is not None and self._options.drain_seconds > 0:
            drain(self._options.drain_seconds)
        waits = [transport.stop(STOP_GRACE_SECONDS) for transport in self._transports]
        self._health.end_watches()
        self._admin_health.end_watches()
        for wait in waits:
            wait()
        self.holder.stop()
        self._sampler.stop()
        if self._metrics is not None:
            self._metrics.stop()
            self._metrics = None
        self._stopped, self._transports = self._transports, []

    @property
    def is_busy(self) -> bool:
        """Whether calls are being answered or a thread of ours runs; after `stop`, what did not end in time."""
        calls = any(transport.is_busy for transport in (*self._transports, *self._stopped))
        return calls or self.holder.is_busy or self._sampler.is_busy

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        settings = self._options
        Exposure(
            settings.address,
            settings.admin,
            settings.metrics_address,
            has_tls=settings.tls is not None,
            has_tokens=settings.tokens is not None,
            allow_plaintext=settings.allow_plaintext,
        ).check()
        options = TransportOptions(
            threads=self._options.threads,
            max_message_bytes=self._options.max_message_bytes,
            max_concurrent_streams=self._options.max_concurrent_streams,
            max_connection_age_seconds=self._options.max_connection_age_seconds,
            credentials=self._options.credentials(),
        )
        register = standard_services(self._health, service.NAME)
        transport = TRANSPORTS[self._options.transport](self._calls, options, register, self._backend.prepare_thread)
        self._transports.append(transport)
        self.address = _bind(transport, self._options.address, "--address")
        if admin_address := self._options.admin:
            register = standard_services(self._admin_health, admin.NAME)
            of_admin = TransportOptions(threads=_ADMIN_THREADS, credentials=self._options.credentials())
            transport = GrpcioTransport(self._admin_calls, of_admin, register, self._backend.prepare_thread)
            self._transports.append(transport)
            self.admin_address = _bind(transport, admin_address, "--admin-address")
        if self._options.metrics_address:
            metrics = ServerMetrics(self.holder, self._sampler)
            self._metrics = MetricsServer(metrics, self._options.metrics_address, "--metrics-address")
            self.metrics_address = self._metrics.address
        if self._samples:
            self._sampler.start()
        for each in self._transports:
            each.start()
        self._admin_health.set(True)
        self.holder.start()
        logger.info(
            "answering at %s, admin at %s, metrics at %s",
            self.address,
            self.admin_address or "no address",
            self.metrics_address or "no address",
        )


def standard_services(health_of: Health, name: str) -> list[Register]:
    """Health and reflection for a service of this name."""
    names = name, health.SERVICE_NAME, reflection.SERVICE_NAME
    return [
        lambda server: health_pb2_grpc.add_HealthServicer_to_server(health_of.servicer, server),
        lambda server: reflection.enable_server_reflection(names, server),
    ]


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
        if server.is_busy or not starting.done():
            _end_process()
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


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


def _bind(transport: Transport, address: str, flag: str) -> str:
    """Listen; returns the address with the port that was taken. Raises UsageError or ServerError."""
    host, _ = require_free(address, flag)
    try:
        return f"{host}:{transport.bind(address)}"
    except RuntimeError as error:
        raise ServerError(
            f"cannot listen on {address}: {error}. Choose another with {flag} HOST:PORT; with TLS it may be the "
            "kind of key, which gRPC does not take"
        ) from error
