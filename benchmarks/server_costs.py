"""What does `nearcart serve` cost beside its answers: to start, in memory for each worker, and for its metrics?

    python -m benchmarks.server_costs [--items 1000000] [--factors 128] [--users 5000000] [--workers 4] [--repeats 5]
        [--seconds 2] [--quick] [--json FILE]

A made release of that size is published, and its files are read before each start, so that they lie in the page cache
as far as the machine leaves them there; pages that came from the disk all the same are counted. Starting is timed from
before the process is there to the first answer, imports included, on one core; the first answer, over a connection that
asked for health before, is held against those around the hundredth. Memory is what the kernel calls proportional (Pss:
a page that n processes map counts as an n-th for each), of all processes, after two thousand users were asked for, with
one worker and with several. Metrics are scraped every second; every few seconds one and the same server is told to
count, or to count nothing, and the rates of each such pair are compared.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.bare_servers import PATH, has_native
from benchmarks.http2_requests import Request
from benchmarks.load import CallOptions, closed_loop
from benchmarks.made_catalogue import made_shop
from benchmarks.made_release import AskedUsers, publish_shop
from benchmarks.pinned_servers import Cores, on_core
from benchmarks.raw_rows import write_rows
from benchmarks.watched_server import WatchedServer, watched
from engine.libraries import use_one_thread
from engine.plan import AUTO, IndexPlan

_ASKED = 2_000
_ANSWERS = 200
_READ_BYTES = 1 << 24
_STARTS = (
    "bound_seconds",
    "first_answer_seconds",
    "first_ms",
    "first_from_disk",
    "hundredth_ms",
    "hundredth_from_disk",
)
_SCRAPE_SECONDS = 1.0
_SWITCHED = """
import signal, sys
from engine.call_metrics import CallMetrics
counting = {name: getattr(CallMetrics, name) for name in ("answered", "staged")}
def count(*signal):
    for name, method in counting.items():
        setattr(CallMetrics, name, method)
def count_nothing(*signal):
    for name in counting:
        setattr(CallMetrics, name, lambda *arguments: None)
signal.signal(signal.SIGUSR1, count)
signal.signal(signal.SIGUSR2, count_nothing)
from engine.cli import main
sys.exit(main())
"""
_PAIRS = 10
"""Of loads with and without counting, on one server."""
Rows = Iterator[dict[str, Any]]


def main() -> None:
    arguments = _arguments()
    use_one_thread()
    rows = []
    with tempfile.TemporaryDirectory(prefix="nearcart-costs-") as folder:
        began = time.perf_counter()
        shop = made_shop(arguments.items, arguments.factors)
        release = publish_shop(Path(folder), shop, IndexPlan(AUTO), n_users=arguments.users)
        size = sum(path.stat().st_size for path in release.directory.rglob("*") if path.is_file())
        print(f"published {size / 1e9:.2f} GB in {time.perf_counter() - began:.0f} s", flush=True)
        common = {"items": arguments.items, "factors": arguments.factors, "users": arguments.users, "bytes": size}
        requests = AskedUsers.of(release, _ASKED).requests()
        for row in _measured(arguments, Path(folder), requests):
            print("  ".join(f"{name} {_text(value)}" for name, value in row.items()), flush=True)
            rows.append({**common, **row})
    _print_summary(rows)
    if arguments.json:
        write_rows(arguments.json, rows)


def _measured(arguments: argparse.Namespace, folder: Path, requests: Sequence[Request]) -> Rows:
    cores = Cores.of_this_machine()
    for transport in ("grpcio", "native") if has_native() else ("grpcio",):
        for repeat in range(arguments.repeats):
            yield {
                "measured": "start",
                "transport": transport,
                "repeat": repeat,
                **_start(cores, folder, transport, requests),
            }
        for workers in (1, arguments.workers):
            yield {"measured": "memory", "transport": transport, "workers": workers} | _memory(
                cores, folder, transport, requests, workers
            )
        for repeat in range(arguments.repeats):
            common = {"measured": "metrics", "transport": transport, "repeat": repeat}
            for row in _metrics(cores, folder, transport, requests, arguments.seconds):
                yield {**common, **row}


def _start(cores: Cores, folder: Path, transport: str, requests: Sequence[Request]) -> dict[str, Any]:
    """From nothing to the first answer, and the answers that follow, one at a time."""
    for path in folder.rglob("*"):
        if path.is_file():
            _read(path)
    began = time.perf_counter()
    with watched(cores.server, folder, transport) as server, on_core(cores.load):
        bound = time.perf_counter() - began
        with grpc.insecure_channel(server.address) as channel:
            # A client's own first call is no business of the server's.
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
            ask = channel.unary_unary(PATH)
            took, from_disk = [], [_pages_from_disk(server.pid)]
            for request in requests[:_ANSWERS]:
                asked = time.perf_counter()
                ask(request.payload, timeout=10)
                took.append((time.perf_counter() - asked) * 1e3)
                if len(took) == 1:
                    first = time.perf_counter() - began
                from_disk.append(_pages_from_disk(server.pid))
    return {
        "bound_seconds": bound,
        "first_answer_seconds": first,
        "first_ms": took[0],
        "first_from_disk": from_disk[1] - from_disk[0],
        "hundredth_ms": float(np.median(took[90:110])),
        "hundredth_from_disk": float(np.median(np.diff(from_disk[90:111]))),
    }


def _read(path: Path) -> None:
    """All of it, so that it lies in the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(_READ_BYTES):
            pass


def _pages_from_disk(pid: int) -> int:
    """That the process has waited for: its major faults."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[9])


def _memory(cores: Cores, folder: Path, transport: str, requests: Sequence[Request], workers: int) -> dict[str, Any]:
    with watched(cores.server, folder, transport, "--workers", str(workers)) as server, on_core(cores.load):
        closed_loop(server.address, requests, 3.0, connections=8 * workers, in_flight=1)
        pids = [server.pid, *server.worker_pids()]
        sizes = [_sizes(pid) for pid in pids]
    return {
        "processes": len(pids),
        "pss_bytes": sum(each["Pss"] for each in sizes),
        "pss_file_bytes": sum(each["Pss_File"] for each in sizes),
        "pss_anonymous_bytes": sum(each["Pss_Anon"] for each in sizes),
        "rss_bytes": sum(each["Rss"] for each in sizes),
    }


def _sizes(pid: int) -> dict[str, int]:
    """What the kernel says of a process's memory, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(size.split()[0]) * 1024 for name, _, size in (line.partition(":") for line in lines)}


def _metrics(cores: Cores, folder: Path, transport: str, requests: Sequence[Request], seconds: float) -> Rows:
    """Calls a second at saturation, with and without counting, in turns."""
    program = (sys.executable, "-c", _SWITCHED)
    with watched(cores.server, folder, transport, program=program) as server, on_core(cores.load):
        closed_loop(server.address, requests, seconds / 4, options=CallOptions())
        for pair in range(_PAIRS):
            for counts in (True, False) if pair % 2 else (False, True):
                os.kill(server.pid, signal.SIGUSR1 if counts else signal.SIGUSR2)
                yield {"pair": pair, "counts": counts, "achieved": _rate(server, requests, seconds, scrapes=counts)}


def _rate(server: WatchedServer, requests: Sequence[Request], seconds: float, *, scrapes: bool) -> float:
    """Calls a second at saturation."""
    over = threading.Event()
    scraping = threading.Thread(target=_scrape, args=(server, over))
    if scrapes:
        scraping.start()
    row = closed_loop(server.address, requests, seconds, options=CallOptions(warmup_seconds=seconds / 8)).row()
    over.set()
    if scrapes:
        scraping.join()
    assert not row["errors"], row["errors"]
    return float(row["achieved"])


def _scrape(server: WatchedServer, over: threading.Event) -> None:
    while not over.wait(_SCRAPE_SECONDS):
        server.metrics()


def _print_summary(rows: Sequence[dict[str, Any]]) -> None:
    print()
    for transport in dict.fromkeys(row["transport"] for row in rows):
        chosen = [row for row in rows if row["transport"] == transport]
        starts = [row for row in chosen if row["measured"] == "start"]
        for name in _STARTS:
            _print_spread(f"{transport}: {name}", [row[name] for row in starts])
        for row in chosen:
            if row["measured"] == "memory":
                share = row["pss_bytes"] / row["bytes"]
                print(
                    f"{transport}: {row['workers']} workers: Pss {row['pss_bytes'] / 2**20:,.0f} MiB, of files "
                    f"{row['pss_file_bytes'] / 2**20:,.0f}; {share:.2f} of the release"
                )
        rates = {
            counts: [row["achieved"] for row in chosen if row["measured"] == "metrics" and row["counts"] is counts]
            for counts in (True, False)
        }
        if rates[True]:
            pairs = [1 - counted / free for counted, free in zip(rates[True], rates[False], strict=True)]
            _print_spread(f"{transport}: what metrics cost, share of the calls", pairs)


def _print_spread(name: str, values: Sequence[float]) -> None:
    print(f"{name}: median {np.median(values):.3g}, {min(values):.3g} to {max(values):.3g} ({len(values)})")


def _text(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--factors", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--users", type=int, default=5_000_000, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=4, help="whose memory is held against one's")
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a load (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small and short: checks that the benchmark runs")
    parser.add_argument("--json", type=Path, help="write the raw rows here")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.items, arguments.factors, arguments.users = 2_000, 16, 3_000
        arguments.workers, arguments.repeats, arguments.seconds = 2, 1, 0.5
    return arguments


if __name__ == "__main__":
    main()
