"""Connections: spread, in turn, with a policy of retries that other languages can copy, and pings a server permits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from plain_server import answering, one_item

from engine import keepalive
from engine.client import Client
from engine.connections import MAX_REQUEST_BYTES, SERVICE_CONFIG
from engine.errors import ClientError

ROOT = Path(__file__).parent.parent


def test_the_page_about_the_wire_has_the_policy_for_other_languages() -> None:
    section = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8").partition("## Connections and retries")[2]
    (shown,) = re.findall(r"```json\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    assert json.loads(shown) == SERVICE_CONFIG


def test_the_page_about_the_wire_has_the_times_of_pings() -> None:
    page = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8")
    assert f"every {keepalive.PERMITTED_EVERY_SECONDS} seconds" in page
    assert f"after {keepalive.PING_EVERY_SECONDS} seconds" in page
    assert f"within {keepalive.PING_TIMEOUT_SECONDS} seconds" in page


def test_a_client_pings_no_more_often_than_a_server_permits() -> None:
    client, server = dict(keepalive.CLIENT_OPTIONS), dict(keepalive.SERVER_OPTIONS)
    permitted = server["grpc.http2.min_recv_ping_interval_without_data_ms"]
    assert client["grpc.keepalive_time_ms"] >= permitted + 1000
    assert client["grpc.keepalive_permit_without_calls"] == server["grpc.keepalive_permit_without_calls"] == 1


@pytest.mark.parametrize("connections", [1, 5])
def test_calls_take_turns_over_connections_of_their_own(connections: int) -> None:
    peers = []

    def answer(name: str, request: Any, context: grpc.ServicerContext) -> Any:
        peers.append(context.peer())
        return one_item(request)

    with answering(answer) as address, Client(address, connections=connections) as client:
        for _ in range(3 * connections):
            client.recommend_for_user("a")
    assert len(set(peers)) == connections
    assert peers == peers[:connections] * 3


def test_a_client_that_asks_once_connects_once() -> None:
    peers = []

    def answer(name: str, request: Any, context: grpc.ServicerContext) -> Any:
        peers.append(context.peer())
        return one_item(request)

    with answering(answer) as address, Client(address) as client:
        client.recommend_for_user("a")
    assert len(peers) == 1


@pytest.mark.parametrize("connections", [0, -1, 1001])
def test_a_number_of_connections_that_makes_no_sense_is_refused(connections: int) -> None:
    with pytest.raises(ClientError, match=f"connections: found {connections}, expected 1 to 1000"):
        Client("127.0.0.1:1", connections=connections)


def busy(pushback_ms: int | None) -> Any:
    """The status of a server that has too much to do."""
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(250)
    details = any_pb2.Any()
    details.Pack(retry)
    status = rpc_status.to_status(
        status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="busy", details=[details])
    )
    if pushback_ms is None:
        return status
    trailers = (*status.trailing_metadata, ("grpc-retry-pushback-ms", str(pushback_ms)))
    return type(status)(code=status.code, details=status.details, trailing_metadata=trailers)


def times_of_attempts(pushback_ms: int | None, n_refusals: int) -> list[float]:
    """When a server that refuses so many times gets the attempts of one call."""
    times = []

    def answer(name: str, request: Any, context: grpc.ServicerContext) -> Any:
        times.append(time.monotonic())
        if len(times) <= n_refusals:
            context.abort_with_status(busy(pushback_ms))
        return one_item(request)

    with answering(answer) as address, Client(address) as client:
        if n_refusals < 5 and pushback_ms != -1:
            assert client.recommend_for_user("a").item_ids == ("a",)
        else:
            with pytest.raises(ClientError, match=r"more to do than it can: busy\. Ask again in 0\.25 seconds"):
                client.recommend_for_user("a")
    return times


def test_a_refused_call_is_tried_again_after_the_time_that_the_server_asks_for() -> None:
    first, second, third = times_of_attempts(300, 2)
    assert second - first >= 0.3
    assert third - second >= 0.3


def test_without_such_a_time_the_client_backs_off_by_itself() -> None:
    first, second, third = times_of_attempts(None, 2)
    assert second - first >= 0.035  # 50 ms, give or take a fifth
    assert third - second >= 0.07


def test_five_attempts_are_enough() -> None:
    assert len(times_of_attempts(1, 100)) == 5


def test_a_server_can_forbid_another_attempt() -> None:
    assert len(times_of_attempts(-1, 100)) == 1


def test_hundreds_of_failures_at_once_leave_a_budget_for_retries() -> None:
    refused = set()

    def answer(name: str, request: Any, context: grpc.ServicerContext) -> Any:
        if request.user_id not in refused:
            refused.add(request.user_id)
            context.abort_with_status(busy(1))
        return one_item(request)

    user_ids = [str(number) for number in range(400)]
    with answering(answer) as address, Client(address) as client, ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(client.recommend_for_user, user_ids))
    assert [each.item_ids for each in answers] == [(user_id,) for user_id in user_ids]


def test_requests_of_any_size_that_a_server_accepts_are_tried_again() -> None:
    attempts = []

    def answer(name: str, request: Any, context: grpc.ServicerContext) -> Any:
        attempts.append(request.ByteSize())
        if len(attempts) == 1:
            context.abort_with_status(busy(1))  # what gRPC alone tries again
        return one_item(request)

    user_ids = ["u" * 500] * 8_000
    with answering(answer) as address, Client(address) as client:
        assert len(client.recommend_for_users(user_ids)) == len(user_ids)
    assert attempts[0] == attempts[1]
    assert 0.9 * MAX_REQUEST_BYTES < attempts[0] <= MAX_REQUEST_BYTES


def test_importing_the_client_makes_no_event_loop_and_starts_no_thread() -> None:
    program = (
        "import asyncio, threading\n"
        "def fail(*arguments): raise AssertionError('a loop')\n"
        "asyncio.new_event_loop = asyncio.get_event_loop = fail\n"
        "from engine.client import AsyncClient, Client\n"
        "AsyncClient('127.0.0.1:1')\n"
        "print(threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")
