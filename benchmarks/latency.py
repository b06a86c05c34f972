"""How many calls a second does `nearcart serve` answer on one core, how late, and how much of that is not the search?

    python -m benchmarks.latency [--sizes 10000x64,100000x64,1000000x128] [--seconds 5] [--repeats 3]
        [--transports grpcio,native] [--concurrency N] [--milvus-venv DIR] [--quick] [--json FILE]

Releases of made shops (items x factors); users are asked for in turn. The server has one core with all its threads, the
load has another. For each size and transport: a server that answers nothing ("empty"), one that makes the same search
in its handler and returns an answer encoded beforehand ("search"), and `nearcart serve` ("full"), each at saturation
(closed loop, 4 connections with 8 calls in flight), with one call in flight, and at shares of its saturation (open
loop: Poisson arrivals, latency from the intended time of sending, benchmarks/load.py); the full one also in batches of
64. In this process, on the server's core: the search alone, and the whole answer. All of that in turn, several
times. Recall is that of the answers that were timed, against brute force, by score. The summary is computed from the
rows: medians over the repeats, and how far they lie apart.

Milvus is asked in the same turns where --milvus-venv names an environment of its own, which is made if it is absent
(benchmarks/milvus_rival.py).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import bare_servers
from benchmarks.bare_servers import TRANSPORTS, has_native
from benchmarks.latency_rounds import BATCH, FLOOR_SHARES, SHARES, InProcess, Rows, Times, WireRounds
from benchmarks.latency_tables import print_summary, told
from benchmarks.made_release import AskedUsers, K, publish_made
from benchmarks.milvus_rival import MilvusFailed, MilvusRival
from benchmarks.pinned_servers import NEARCART, Cores, serving
from benchmarks.raw_rows import write_rows
from engine.libraries import use_one_thread
from engine.release import Release
from engine.retrieval import Snapshot

Measure = Callable[[int], Rows]
"""One turn; gets its number."""


@dataclass(frozen=True)
class Plan:
    """What is measured, on which cores and for how long; `concurrency` None leaves it to the server."""

    sizes: tuple[tuple[int, int], ...]
    transports: tuple[str, ...]
    times: Times
    repeats: int
    n_asked: int
    cores: Cores
    concurrency: int | None
    milvus_venv: Path | None


def main() -> None:
    arguments = _arguments()
    # Ended early it still stops its servers, and keeps what it measured.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    rows: list[dict[str, Any]] = []
    try:
        for row in measured(_plan(arguments)):
            print(told(row), flush=True)
            rows.append(row)
    finally:
        if arguments.json and rows:
            write_rows(arguments.json, rows)
        print_summary(rows)


def measured(plan: Plan) -> Rows:
    """All rows, size by size."""
    use_one_thread()
    for n_items, factors in plan.sizes:
        with tempfile.TemporaryDirectory(prefix="nearcart-latency-") as folder, ExitStack() as stack:
            release = publish_made(Path(folder), n_items, factors)
            asked = AskedUsers.of(release, plan.n_asked)
            index = release.manifest["index"]
            common = {
                "items": n_items,
                "factors": factors,
                "users_asked": len(asked.ids),
                "k": K,
                "index": f"{index['factory']} {index['search_parameters']}".strip(),
                "server_core": plan.cores.server,
                "load_core": plan.cores.load,
            }
            turns: list[tuple[Mapping[str, str], Measure]] = []
            for who, measure in _contenders(plan, release, asked, stack):
                if isinstance(measure, str):
                    yield {**common, **who, "absent": measure}
                else:
                    turns.append((who, measure))
            for repeat in range(plan.repeats):
                first = repeat % len(turns)
                for who, measure in turns[first:] + turns[:first]:
                    for row in measure(repeat):
                        # Two at the most are ours: what is above that disturbed the measurement.
                        yield {**common, **who, "repeat": repeat, "load_average": os.getloadavg()[0], **row}


def _contenders(
    plan: Plan, release: Release, asked: AskedUsers, stack: ExitStack
) -> Iterator[tuple[Mapping[str, str], Measure | str]]:
    """Who is measured and how, or why not. Servers run until the stack is closed."""
    in_process = InProcess(asked, Snapshot.open(release.directory), plan.times, plan.cores)
    yield {"server": "in process", "transport": "none"}, lambda repeat: in_process.rounds()
    requests, batches = asked.requests(), asked.batches(BATCH)
    for transport in plan.transports:
        everybody = {name: {"server": name, "transport": transport} for name in ("empty", "search", "full")}
        if transport == "native" and not has_native():
            yield from ((who, "pygrpc-native is not installed") for who in everybody.values())
            continue
        for handler in ("empty", "search"):
            bare = bare_servers.command(handler, transport, release.directory, len(asked.ids))
            address = stack.enter_context(serving(plan.cores.server, bare))
            rounds = WireRounds(address, requests, None, plan.times, plan.cores)
            yield everybody[handler], lambda repeat, rounds=rounds: rounds.rounds(FLOOR_SHARES, repeat)
        address = stack.enter_context(serving(plan.cores.server, _full(plan, transport, release)))
        full = WireRounds(address, requests, asked.recall_of_payloads, plan.times, plan.cores)
        yield everybody["full"], lambda repeat, full=full: _full_rounds(full, repeat, batches, asked)
    who = {"server": "milvus", "transport": "grpc-go"}
    if plan.milvus_venv is None:
        yield who, "no --milvus-venv"
        return
    try:
        rival = stack.enter_context(MilvusRival(plan.milvus_venv, asked, plan.times, plan.cores))
    except (MilvusFailed, subprocess.CalledProcessError) as error:
        yield who, str(error)
    else:
        yield who, rival.rounds


def _full_rounds(full: WireRounds, repeat: int, batches: list, asked: AskedUsers) -> Rows:
    yield from full.rounds(SHARES, repeat)
    yield from full.batches(batches, asked.recall_of_batches)


def _full(plan: Plan, transport: str, release: Release) -> list[str]:
    command = [*NEARCART, "serve", "--releases", str(release.directory.parent), "--address", "127.0.0.1:0"]
    command += ["--transport", transport]
    if plan.concurrency is not None:
        command += ["--concurrency", str(plan.concurrency)]
    return command


def _plan(arguments: argparse.Namespace) -> Plan:
    sizes = tuple(tuple(map(int, each.split("x"))) for each in arguments.sizes.split(","))
    times, repeats, n_asked = Times(arguments.seconds, min(1.0, arguments.seconds / 4)), arguments.repeats, 1_000
    if arguments.quick:
        sizes, times, repeats, n_asked = ((2_000, 16),), Times(0.3, 0.1), 1, 128
    transports = tuple(arguments.transports.split(","))
    cores, venv = Cores.of_this_machine(), arguments.milvus_venv
    return Plan(sizes, transports, times, repeats, n_asked, cores, arguments.concurrency, venv)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000x64,100000x64,1000000x128", help="items x factors, comma-separated")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default: %(default)s)")
    parser.add_argument("--transports", default=",".join(TRANSPORTS), help="default: %(default)s")
    parser.add_argument("--concurrency", type=int, help="of `nearcart serve`; its own default without")
    parser.add_argument("--milvus-venv", type=Path, help="Milvus's environment, made there if absent")
    parser.add_argument("--quick", action="store_true", help="one tiny release: checks that the benchmark runs")
    parser.add_argument("--json", type=Path, help="write the raw rows here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
