"""What statuses and their details become in words; those of the engine's own server are in tests/test_client.py."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from plain_server import answering

from engine.client import Client
from engine.errors import ClientError


def refusal(code: grpc.StatusCode, *details: Any) -> str:
    """What a client says of a call that is refused so."""

    def refuse(name: str, request: Any, context: grpc.ServicerContext) -> Any:
        status = status_pb2.Status(code=code.value[0], message="the reason")
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        context.abort_with_status(rpc_status.to_status(status))

    with answering(refuse) as address, Client(address) as client, pytest.raises(ClientError) as caught:
        client.release()
    return str(caught.value).replace(address, "HERE")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "HERE does not know who asks: the reason. Give the client a token"),
        (grpc.StatusCode.PERMISSION_DENIED, "HERE refuses this to the holder of the token: the reason. Ask with"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "HERE refuses what is too much: the reason. Ask for less at once"),
        (grpc.StatusCode.FAILED_PRECONDITION, "HERE failed with FAILED_PRECONDITION: the reason."),
    ],
)
def test_a_status_without_details_is_explained(code: grpc.StatusCode, message: str) -> None:
    assert refusal(code).startswith(message)


def test_an_overloaded_server_is_told_from_a_question_that_is_too_large() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(50)
    reason = error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="nearcart")
    message = refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, retry)
    assert message.startswith("HERE has more to do than it can: the reason. Ask again in 0.05 seconds or later")


def test_a_question_that_is_too_large_for_the_server_says_so() -> None:
    with (
        answering(lambda *_: None, max_receive_message_length=1000) as address,
        Client(address) as client,
        pytest.raises(ClientError, match=r"refuses what is too much: .*larger than max.*--max-message-bytes"),
    ):
        client.recommend_for_user("a" * 2000)


def test_a_server_that_says_why_it_is_unavailable_is_not_asked_all_over_again() -> None:
    attempts = []

    def refuse(name: str, request: Any, context: grpc.ServicerContext) -> Any:
        attempts.append(time.monotonic())
        status = status_pb2.Status(code=14, message="no release is loaded")
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="NO_RELEASE_LOADED", domain="nearcart"))
        context.abort_with_status(rpc_status.to_status(status))

    with (
        answering(refuse) as address,
        Client(address) as client,
        pytest.raises(ClientError, match="does not answer yet: no release is loaded"),
    ):
        client.release()
    assert len(attempts) == 5
