"""Workers that share a port and are killed under load: whoever asks by the client sees no error."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.client import AsyncClient, Client

SERVER = Path(__file__).parent / "plain_server.py"


class Workers:
    """Processes on one port."""

    def __init__(self) -> None:
        self.address = "127.0.0.1:0"
        self.running: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, str(SERVER), self.address, *arguments]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.running.append(worker)
        assert worker.stdout is not None
        self.address = f"127.0.0.1:{worker.stdout.readline().strip()}"

    def kill(self) -> None:
        """The oldest, as kill -9 does it."""
        worker = self.running.pop(0)
        worker.kill()
        worker.communicate()


@pytest.fixture
def workers() -> Iterator[Workers]:
    group = Workers()
    yield group
    while group.running:
        group.kill()


def kill_some(workers: Workers, answered: Counter[str]) -> None:
    """Kill workers, one after another is back and has had work."""
    for _ in range(4):
        before, until = answered.total(), time.monotonic() + 20
        while answered.total() < before + 200:
            assert time.monotonic() < until, "whoever asks has stopped, after an error"
            time.sleep(0.01)
        workers.kill()
        workers.start()


def test_no_call_fails_while_workers_are_killed_under_load(workers: Workers) -> None:
    for _ in range(3):
        workers.start()
    answered: Counter[str] = Counter()
    stop = threading.Event()

    def ask(number: int) -> None:
        while not stop.is_set():
            if number % 4 == 0:  # requests beyond what gRPC keeps by default, and answers of megabytes
                answers = client.recommend_for_users(["u" * 500] * 600)
                answered[answers[0].release_id] += 1
            else:
                answered[client.recommend_for_user("a").release_id] += 1

    with Client(workers.address) as client, ThreadPoolExecutor(24) as threads:
        asking = [threads.submit(ask, number) for number in range(24)]
        try:
            kill_some(workers, answered)
        finally:
            stop.set()
        for each in asking:
            each.result()
    assert len(answered) >= 3


def test_no_call_of_the_asynchronous_client_fails_either(workers: Workers) -> None:
    for _ in range(3):
        workers.start()
    answered: Counter[str] = Counter()

    async def ask(client: AsyncClient, killing: asyncio.Future[None]) -> None:
        while not killing.done():
            answered[(await client.recommend_for_user("a")).release_id] += 1

    async def main() -> None:
        async with AsyncClient(workers.address) as client:
            killing = asyncio.get_running_loop().run_in_executor(None, kill_some, workers, answered)
            await asyncio.gather(*(ask(client, killing) for _ in range(64)))

    asyncio.run(main())
    assert len(answered) >= 3


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_answer_that_breaks_off_after_its_headers_is_asked_for_again(workers: Workers, kind: str) -> None:
    # gRPC itself tries no call again whose answer has begun. Of 20 connections some reach the one that breaks.
    workers.start()
    workers.start("break")

    async def ask_all() -> list[str]:
        async with AsyncClient(workers.address, connections=20) as client:
            return [(await client.recommend_for_user("a")).release_id for _ in range(20)]

    if kind == "async":
        release_ids = asyncio.run(ask_all())
    else:
        with Client(workers.address, connections=20) as client:
            release_ids = [client.recommend_for_user("a").release_id for _ in range(20)]
    healthy, broken = workers.running
    assert release_ids == [str(healthy.pid)] * 20
    assert broken.wait(10) == 1
