"""`nearcart serve` with its ports for administration and metrics, and what is to be seen of its processes from outside.

For benchmarks.faults. Sizes are in bytes, times in seconds. Checked by tests/test_faults_benchmark.py.
"""

from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pinned_servers import NEARCART, running

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_FETCH_SECONDS = 10.0


@dataclass(frozen=True)
class Sample:
    """One line of the metrics."""

    name: str
    labels: dict[str, str]
    value: float


class Metrics(tuple[Sample, ...]):
    """All lines, as they stood at one moment."""

    def sum(self, name: str, **labels: str) -> float:
        """Of all samples with these labels, 0 where there is none."""
        return sum(each.value for each in self if each.name == name and labels.items() <= each.labels.items())

    def by(self, name: str, label: str) -> dict[str, float]:
        """Sums by the values of one label."""
        found: dict[str, float] = {}
        for each in self:
            if each.name == name:
                value = each.labels[label]
                found[value] = found.get(value, 0.0) + each.value
        return found


@dataclass(frozen=True)
class WatchedServer:
    """A server that runs: HOST:PORT of its three ports, and the process that was started."""

    address: str
    admin_address: str
    metrics_address: str
    pid: int

    def metrics(self) -> Metrics:
        """What it tells of itself now."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=_FETCH_SECONDS) as answer:
            text = answer.read().decode()
        return Metrics(
            Sample(name, dict(_LABEL.findall(labels)), float(value)) for name, labels, value in _SAMPLE.findall(text)
        )

    def worker_pids(self) -> list[int]:
        """Its child processes, that is the workers where there are several."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            if int(fields[1]) == self.pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
        return sorted(found)

    def open_files(self) -> int:
        """File descriptors of the server and its workers."""
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in (self.pid, *self.worker_pids()))

    def anonymous_bytes(self) -> int:
        """What the server and its workers hold of their own: what is mapped from files comes and goes as the kernel
        likes."""
        lines = [
            line
            for pid in (self.pid, *self.worker_pids())
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        ]
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

    def resident_bytes(self) -> float:
        """Of all workers, by their metrics."""
        return self.metrics().sum("nearcart_worker_resident_bytes")


@contextmanager
def watched(
    core: int, releases: Path, transport: str, *flags: str, program: Sequence[str] = NEARCART
) -> Iterator[WatchedServer]:
    """Serve the releases on a core. Raises ServerFailed."""
    admin, metrics = _free_addresses(2)
    serve = ("serve", "--releases", str(releases), "--address", "127.0.0.1:0", "--transport", transport)
    command = [*program, *serve, "--admin-address", admin, "--metrics-address", metrics, *flags]
    with running(core, command) as server:
        yield WatchedServer(server.address, admin, metrics, server.pid)


def _free_addresses(n: int) -> list[str]:
    """Of ports that nobody has at the moment."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    finally:
        for each in sockets:
            each.close()
