"""Clients that break the rules, beside a steady load at a quarter of the saturation: does the load notice?

The kinds are those of benchmarks.hostile_clients. For each the errors and latencies of the steady load, from before the
first of them connects until they are gone, against those before and after. Checked by tests/test_faults_benchmark.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.fault_setting import CONNECTIONS, Rows, Setting, asked_of_small, saturation
from benchmarks.hostile_clients import KINDS
from benchmarks.http2_requests import Request
from benchmarks.load import CallOptions, open_loop
from benchmarks.pinned_servers import ROOT, on_core
from benchmarks.watched_server import WatchedServer, watched

SHARE = 0.25
"""Of the saturation."""
BEFORE, AFTER = "before", "after"
_MEASUREMENTS = 2
"""A phase takes the time of so many."""
_QUICK_CONNECTIONS = 50
_DEADLINE_SECONDS = 2.0
_SETTLE_SECONDS = 10.0
_CHILD = "from benchmarks.hostile_clients import main; main()"


def hostile_rows(setting: Setting, folder: Path) -> Rows:
    """A row for each kind, and one before and after."""
    asked = asked_of_small(setting, folder)
    requests = asked.requests()
    with watched(setting.cores.server, folder, setting.transport) as server, on_core(setting.cores.load):
        rate = SHARE * saturation(server.address, requests, setting.seconds)
        for phase in (BEFORE, *KINDS, AFTER):
            yield {
                "mode": "hostile",
                "phase": phase,
                "transport": setting.transport,
                **_phase(server, requests, rate, phase, setting),
            }


def _phase(
    server: WatchedServer, requests: Sequence[Request], rate: float, phase: str, setting: Setting
) -> dict[str, Any]:
    options = CallOptions(warmup_seconds=0.0, deadline_seconds=_DEADLINE_SECONDS, drain_seconds=3.0)
    seconds = _MEASUREMENTS * setting.seconds
    with _clients(phase, server.address, setting.quick) as did:
        calls = open_loop(server.address, requests, rate, seconds, 0, CONNECTIONS, options)
        files = server.open_files()
    row = calls.row()
    _settle(server)
    metrics = server.metrics()
    kept = ("offered", "calls", "errors", "p50_ms", "p99_ms", "max_ms", "send_lag_p99_ms", "sender_lagged")
    return {
        **{name: row[name] for name in kept},
        **did,
        "open_files": files,
        "open_files_afterwards": server.open_files(),
        "resident_bytes_afterwards": metrics.sum("nearcart_worker_resident_bytes"),
        "in_flight_afterwards": metrics.sum("nearcart_in_flight_calls"),
    }


def _settle(server: WatchedServer) -> None:
    """Wait until no call is under way, but not for ever."""
    until = time.perf_counter() + _SETTLE_SECONDS
    while server.metrics().sum("nearcart_in_flight_calls") and time.perf_counter() < until:
        time.sleep(0.1)


@contextmanager
def _clients(kind: str, address: str, quick: bool) -> Iterator[dict[str, int]]:
    """Hostile clients of a kind; what they did is in the mapping afterwards."""
    did: dict[str, int] = {}
    if kind not in KINDS:
        yield did
        return
    command = [sys.executable, "-c", _CHILD, kind, address]
    if quick:
        command += ["--most", str(_QUICK_CONNECTIONS)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
        try:
            assert clients.stdout is not None
            clients.stdout.readline()
            yield did
        finally:
            told, _ = clients.communicate()
            did.update(json.loads(told))
