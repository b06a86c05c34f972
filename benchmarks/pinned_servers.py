"""Servers as processes of their own, each with all its threads on one core, while the load runs on another.

Checked by tests/test_latency_benchmark.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEARCART = (sys.executable, "-m", "engine.cli")
"""The command line, in a process of its own."""
_PIN = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a benchmark that is killed leaves no server behind
os.sched_setaffinity(0, {int(sys.argv[1])})
os.execv(sys.argv[2], sys.argv[2:])
"""
_STOP_SECONDS = 30


@dataclass(frozen=True)
class Cores:
    """Where the server runs, and where the load. One and the same on a machine that has no other."""

    server: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[-1])


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """This process on one core, and on those it had afterwards."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pinned(core: int, command: Sequence[str]) -> list[str]:
    """A command line that runs another one on a core; the process is the same."""
    return [sys.executable, "-c", _PIN, str(core), *command]


class ServerFailed(Exception):
    """A server ended before it answered; with its own words."""


@dataclass(frozen=True)
class Running:
    """A server's process, and the first line that it printed: its address."""

    address: str
    pid: int


@contextmanager
def running(core: int, command: Sequence[str]) -> Iterator[Running]:
    """A server, from when it printed its address; it is ended afterwards. Raises ServerFailed."""
    with (
        tempfile.TemporaryFile("w+") as words,
        subprocess.Popen(pinned(core, command), cwd=ROOT, stdout=subprocess.PIPE, stderr=words, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            if not address:
                status = server.wait(_STOP_SECONDS)
                words.seek(0)
                raise ServerFailed(f"{' '.join(command)} ended with {status}:\n{words.read()}")
            yield Running(address, server.pid)
        finally:
            server.terminate()
            server.communicate(timeout=_STOP_SECONDS)


@contextmanager
def serving(core: int, command: Sequence[str]) -> Iterator[str]:
    """As `running`: the address alone."""
    with running(core, command) as server:
        yield server.address
