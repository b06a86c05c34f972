"""Real processes of the fake shop: started, killed, told what to serve."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_backend import USERS, channel_to
from nearcart.v1 import recommendation_pb2 as wire
from nearcart.v1 import recommendation_pb2_grpc
from waiting import until

from engine import worker_group
from engine.client import Client
from engine.errors import ClientError, ReleaseCorrupt, ReleaseError, ReleaseNotFound, ServerError, UsageError
from engine.remote_worker import RemoteWorker, WorkerGone
from engine.serving import WorkerOptions
from engine.worker_group import WorkerGroup
from engine.worker_process import options_of, values_of

TESTS = Path(__file__).parent
PROGRAM = f"""
import sys
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}, {str(TESTS.parent / "proto")!r}]
from pathlib import Path
from fake_backend import FakeReleases, FakeSnapshot
from engine.errors import ClientError, ReleaseCorrupt, UsageError
from engine.worker import Worker
from engine.worker_process import main

directory = Path(sys.argv[1])
if (directory / "broken").exists():
    sys.exit(3)
releases = FakeReleases(FakeSnapshot("release 1"), FakeSnapshot("release 2"))

def opened(path, watch):
    if path.name == "corrupt":
        raise ReleaseCorrupt("bad file")
    if path.name == "long":
        import time
        (directory / "loading").touch()
        time.sleep(120)
    if path.name == "deadly":
        import os
        os._exit(7)
    print("this is no answer", flush=True)
    releases.path(path.name)
    return releases.open(path)

def made(options):
    if (directory / "misused").exists():
        raise UsageError("--tokens holds nonsense")
    return Worker(options, opened)

main(made)
"""


@contextlib.contextmanager
def group_of(directory: Path, workers: int = 2, **options: object) -> Iterator[WorkerGroup]:
    settings = WorkerOptions(**{"address": "127.0.0.1:0", **options})  # type: ignore[arg-type]
    group = WorkerGroup(settings, workers, (sys.executable, "-c", PROGRAM, str(directory)))
    try:
        group.bind()
        group.start()
        yield group
    finally:
        group.stop(5)


def serve(group: WorkerGroup, name: str) -> None:
    group.serve(group.load(Path(name)))
    group.set_healthy(True)


def release_ids(group: WorkerGroup, calls: int = 40) -> set[str]:
    """Of answers over connections of their own, which the kernel spreads over the workers."""
    found = set()
    for _ in range(calls):
        with channel_to(group.address) as channel:
            stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
            found.add(stub.RecommendForUser(wire.RecommendForUserRequest(user_id="user 1"), timeout=10).release_id)
    return found


def test_all_workers_answer_at_one_port_and_are_swapped_together(tmp_path: Path, transport: str) -> None:
    with group_of(tmp_path, 3, transport=transport) as group:
        serve(group, "release 1")
        assert release_ids(group) == {"release 1"}
        figures = group.figures()
        assert [each["worker"] for each in figures] == [0, 1, 2]
        assert sum(sum(n for _, _, n in each["calls"]) for each in figures) == 40
        assert sum(bool(each["calls"]) for each in figures) >= 2
        serve(group, "release 2")
        assert release_ids(group) == {"release 2"}
        assert [each["loaded"] for each in group.figures()] == [["release 2", "release 1"]] * 3


def test_a_release_that_one_cannot_load_is_served_by_none(tmp_path: Path) -> None:
    with group_of(tmp_path) as group:
        serve(group, "release 1")
        with pytest.raises(ReleaseCorrupt, match="bad file"):
            group.load(Path("corrupt"))
        with pytest.raises(ReleaseNotFound):
            group.load(Path("elsewhere"))
        assert release_ids(group) == {"release 1"}


def test_a_killed_worker_is_back_with_what_the_others_serve(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with group_of(tmp_path) as group:
        serve(group, "release 1")
        serve(group, "release 2")
        worker = group._slots[0].worker
        assert worker is not None
        os.kill(worker.pid, signal.SIGKILL)
        until(lambda: group._slots[0].worker not in (None, worker))
        assert group.n_restarts == 1
        assert [each["release_id"] for each in group.figures()] == ["release 2"] * 2
        assert release_ids(group) == {"release 2"}
        assert "worker 0 ended with signal 9" in caplog.text


def test_clients_see_nothing_of_killed_workers(tmp_path: Path) -> None:
    with group_of(tmp_path, 2) as group, Client(group.address) as client:
        serve(group, "release 1")
        stop, errors, answered = threading.Event(), [], [0]

        def ask() -> None:
            while not stop.is_set():
                try:
                    assert client.recommend_for_user(USERS[0]).item_ids
                    answered[0] += 1
                except ClientError as error:
                    errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for place in (0, 1, 0):
            worker = group._slots[place].worker
            assert worker is not None
            before = answered[0]
            os.kill(worker.pid, signal.SIGKILL)
            until(lambda place=place, worker=worker: group._slots[place].worker not in (None, worker))
            until(lambda before=before: answered[0] > before + 20)
        stop.set()
        for thread in threads:
            thread.join()
        assert not errors


def test_a_release_that_kills_a_worker_is_tried_on_no_other(tmp_path: Path) -> None:
    with group_of(tmp_path) as group:
        serve(group, "release 1")
        other = group._slots[1].worker
        with pytest.raises(ReleaseError, match="worker 0 ended while it loaded deadly"):
            group.load(Path("deadly"))
        until(lambda: group.n_restarts == 1 and group._slots[0].worker is not None)
        assert group._slots[1].worker is other
        assert release_ids(group) == {"release 1"}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_group, "PING_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(worker_group, "SILENT_SECONDS", 2.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "told",
    [lambda group: group.set_healthy(False), lambda group: serve(group, "release 2"), lambda group: group.drain()],
    ids=["healthy", "serve", "drain"],
)
def test_a_worker_that_hangs_holds_up_nothing_for_long(tmp_path: Path, told: Callable[[WorkerGroup], None]) -> None:
    with group_of(tmp_path) as group:
        serve(group, "release 1")
        hanging = group._slots[1].worker
        assert hanging is not None
        os.kill(hanging.pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(told, group).result(20)
        until(lambda: group._slots[1].worker not in (None, hanging))
        assert len({each["release_id"] for each in group.figures()}) == 1


def test_a_worker_that_starts_has_the_port_only_when_it_can_answer(tmp_path: Path) -> None:
    with group_of(tmp_path) as group:
        serve(group, "release 1")
        group._serving = worker_group._Loaded("long", Path("long"))
        worker = group._slots[0].worker
        assert worker is not None
        os.kill(worker.pid, signal.SIGKILL)
        until(lambda: (tmp_path / "loading").exists())
        assert release_ids(group) == {"release 1"}, "nobody reaches the one that loads"
        starting = group._slots[0].starting
        assert starting is not None
        group.stop(1)
        assert starting.wait(5) == "signal 9"


def test_a_worker_that_is_loading_ends_with_whoever_started_it(tmp_path: Path) -> None:
    worker = RemoteWorker((sys.executable, "-c", PROGRAM, str(tmp_path)), WorkerOptions(), 0, "text")
    loading = worker.send("load", "long")
    until(lambda: (tmp_path / "loading").exists())
    assert worker._process.stdin is not None
    worker._process.stdin.close()
    assert worker.wait(10) == "exit code 0"
    with pytest.raises(WorkerGone):
        loading.result()


def test_what_a_worker_cannot_be_made_of_is_told_and_tried_again(tmp_path: Path) -> None:
    with group_of(tmp_path) as group:
        serve(group, "release 1")
        (tmp_path / "misused").touch()
        other = WorkerGroup(WorkerOptions(address="127.0.0.1:0"), 1, group._command)
        with pytest.raises(UsageError, match="--tokens holds nonsense"):
            other.start()
        worker = group._slots[0].worker
        assert worker is not None
        os.kill(worker.pid, signal.SIGKILL)
        until(lambda: group.n_restarts >= 2)
        (tmp_path / "misused").unlink()
        until(lambda: group._slots[0].worker is not None)
        assert release_ids(group) == {"release 1"}


def test_a_worker_that_ended_a_thousand_times_is_still_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_group, "MOST_DELAY_SECONDS", 0.0)
    ends = 0

    def fill(slot: object) -> None:
        nonlocal ends
        ends += 1
        if ends < 1_100:
            raise OSError(11, "no more processes")
        group._stopped.set()

    group = WorkerGroup(WorkerOptions(), 1)
    monkeypatch.setattr(group, "fill", fill)
    group._slots[0].worker = RemoteWorker((sys.executable, "-c", ""), WorkerOptions(), 0, "text")
    group._slots[0]._watch()
    assert ends == 1_100


def test_a_worker_that_cannot_serve_what_the_others_do_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with group_of(tmp_path) as group:
        serve(group, "release 1")
        loaded = group.load(Path("release 2"))
        worker, other = (slot.worker for slot in group._slots)
        assert worker is not None
        send = worker.send

        def told(command: str, value: object = None) -> Future[Any]:
            return send(command, "corrupt" if command == "serve" else value)

        monkeypatch.setattr(worker, "send", told)
        group.serve(loaded)
        until(lambda: group._slots[0].worker not in (None, worker))
        assert group._slots[1].worker is other
        assert release_ids(group) == {"release 2"}


def test_the_port_is_taken_over_from_connections_that_another_server_left(tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        where = listening.getsockname()
        client = socket.create_connection(where)
        listening.accept()[0].close()  # the side that closes first keeps the port
        assert client.recv(1) == b""
        client.close()
    group = WorkerGroup(WorkerOptions(address=f"127.0.0.1:{where[1]}"), 1)
    group.bind()
    with pytest.raises(ServerError, match="in use"):
        WorkerGroup(WorkerOptions(address=group.address), 1).bind()
    group.stop(0)


def test_workers_that_end_again_and_again_are_reported_and_started_ever_less_often(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_group, "FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(worker_group, "MOST_DELAY_SECONDS", 0.01)
    with group_of(tmp_path) as group:
        serve(group, "release 1")
        worker = group._slots[0].worker
        assert worker is not None
        (tmp_path / "broken").touch()
        os.kill(worker.pid, signal.SIGKILL)
        until(lambda: any(record.levelno == logging.CRITICAL for record in caplog.records))
        assert "again and again" in caplog.text
        assert release_ids(group) == {"release 1"}, "the other one goes on"
        (tmp_path / "broken").unlink()
        until(lambda: group._slots[0].worker is not None)
        assert len(group.figures()) == 2


def test_a_group_whose_workers_cannot_start_says_so(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(ServerError, match="ended while it started"), group_of(tmp_path):
        pass


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with group_of(tmp_path) as group:
        other = WorkerGroup(WorkerOptions(address=group.address), 2)
        with pytest.raises(ServerError, match="in use"):
            other.bind()


def test_a_worker_ends_with_whoever_started_it(tmp_path: Path) -> None:
    worker = RemoteWorker((sys.executable, "-c", PROGRAM, str(tmp_path)), WorkerOptions(), 0, "text")
    assert worker._process.stdin is not None
    worker._process.stdin.close()
    assert worker.wait() == "exit code 0"
    with pytest.raises(WorkerGone):
        worker.call("figures")


def test_calls_under_way_are_answered_when_the_group_stops(tmp_path: Path) -> None:
    with group_of(tmp_path) as group, channel_to(group.address) as channel:
        serve(group, "release 1")
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        futures = [
            stub.RecommendForUser.future(wire.RecommendForUserRequest(user_id="user 1"), timeout=20) for _ in range(50)
        ]
        group.stop(5)
        codes = {future.exception() and future.exception().code() for future in futures}
        # gRPC cancels what reaches a connection between the first and the second half of its farewell.
        assert codes <= {None, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def test_options_travel_whole() -> None:
    options = WorkerOptions(tokens=Path("/a/b"), tls_key=Path("key"), threads=7, share_port=True)
    assert options_of(values_of(options)) == options
