"""The command `nearcart serve`: its fields are the options, `run` does it.

Light, as engine.commands is: what is heavy is imported inside `run`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.commands import DEFAULT_ADDRESS, RELEASES_HELP
from engine.configuration import option
from engine.errors import ServerError
from engine.logs import FORMS, set_up_logging
from engine.serving import THREADS, WorkerOptions


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Answer queries over gRPC from the live release.

    Prints the bound HOST:PORT on a line of its own when it answers. Follows CURRENT: a promoted release is loaded
    beside the live one and swapped in. SIGTERM drains and ends.
    """

    releases: Path = option(RELEASES_HELP, metavar="DIR")
    address: str = option("where to listen; port 0 takes a free one", DEFAULT_ADDRESS, metavar="HOST:PORT")
    admin_address: str = option(
        "where the admin service listens; 'next' is loopback at the port after --address, '' turns it off",
        "next",
        metavar="HOST:PORT",
    )
    metrics_address: str = option("where GET /metrics answers, for Prometheus; '' is nowhere", "", metavar="HOST:PORT")
    workers: int = option("worker processes, which share the port", 1, metavar="N", minimum=1, maximum=1024)
    device: str = option("where to search: auto takes the best there is", "auto", choices=("auto", "cpu", "gpu"))
    transport: str = option(
        "grpcio does everything; native (pip install 'nearcart[native]') is faster, and plaintext only",
        "grpcio",
        choices=("grpcio", "native"),
    )
    concurrency: int | None = option(
        "queries answered at the same time by a worker, each by a thread; by default 4 with grpcio, 1 with native",
        None,
        metavar="N",
        minimum=1,
        maximum=1024,
    )
    max_in_flight: int = option(
        "calls under way, waiting ones included; more are refused", 1024, metavar="N", minimum=1, maximum=1 << 20
    )
    max_concurrent_streams: int = option(
        "calls under way of one connection; clients hold back more", 1024, metavar="N", minimum=1, maximum=1 << 20
    )
    max_connection_age_seconds: float = option(
        "age at which clients are asked to connect anew, so that new replicas get work; 0 is never",
        0.0,
        metavar="S",
        minimum=0,
        maximum=86_400,
    )
    tls_certificate: Path | None = option("certificate chain, PEM; with it only TLS is spoken", None, metavar="FILE")
    tls_key: Path | None = option("its private key, PEM", None, metavar="FILE")
    tls_client_ca: Path | None = option("clients must show a certificate of these, PEM", None, metavar="FILE")
    tokens: Path | None = option("bearer tokens that are let in, with their roles", None, metavar="FILE")
    allow_plaintext: bool = option("listen without TLS where other machines reach", False)
    traces: str = option(
        "where traces go by OTLP, as http://127.0.0.1:4317; '' is nowhere (pip install 'nearcart[traces]')",
        "",
        metavar="URL",
    )
    log_format: str = option("how the log is written", "text", choices=FORMS)
    drain_seconds: float = option(
        "wait between NOT_SERVING and refusing calls", 0.0, metavar="S", minimum=0, maximum=3600
    )
    poll_seconds: float = option(
        "time between looks at CURRENT; 0 never looks", 5.0, metavar="S", minimum=0, maximum=86_400
    )
    max_message_bytes: int = option(
        "largest request accepted", 4 * 1024 * 1024, metavar="N", minimum=1024, maximum=1 << 30
    )
    verify_after_start: bool = option("check every file's SHA-256 in the background", True)
    recall_sample_share: float = option(
        "share of the searches whose recall is measured in the background, for --metrics-address; 0 is none",
        0.001,
        metavar="S",
        minimum=0,
        maximum=1,
    )

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises ServerError, ReleaseError."""
        set_up_logging(self.log_format)
        if self.device == "gpu":
            raise ServerError(
                "--device gpu: this version searches on the CPU only, and no GPU index is built in. "
                "Use --device auto or --device cpu"
            )
        from engine.repository import Repository
        from engine.server import Backend, ServerOptions, run_server

        Repository(self.releases).current_path()  # names the directory where there is nothing to serve
        options = ServerOptions(
            releases=self.releases,
            worker=self._worker(),
            workers=self.workers,
            admin_address=self.admin_address,
            metrics_address=self.metrics_address,
            drain_seconds=self.drain_seconds,
            poll_seconds=self.poll_seconds,
            verify_after_start=self.verify_after_start,
            allow_plaintext=self.allow_plaintext,
        )
        run_server(options, backend=Backend.of(self.releases, self.log_format))

    def _worker(self) -> WorkerOptions:
        return WorkerOptions(
            address=self.address,
            transport=self.transport,
            threads=self.concurrency or THREADS[self.transport],
            max_in_flight=self.max_in_flight,
            max_concurrent_streams=self.max_concurrent_streams,
            max_connection_age_seconds=self.max_connection_age_seconds,
            max_message_bytes=self.max_message_bytes,
            recall_sample_share=self.recall_sample_share,
            tls_certificate=self.tls_certificate,
            tls_key=self.tls_key,
            tls_client_ca=self.tls_client_ca,
            tokens=self.tokens,
            traces=self.traces,
        )
