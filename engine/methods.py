"""The methods of a service as transports see them: bytes of many requests in, for each the bytes of an answer out.

Many, because what is asked at the same moment may be answered together. A refusal stands for an answer where there is
none; nothing is raised. Kept honest by tests/test_service.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from engine.statuses import Refusal, refusal_of, undecodable

Outcome = bytes | Refusal
Answerer = Callable[[Sequence[bytes]], Sequence[Outcome]]
"""Answers requests, in their order."""


def methods_of(service: ServiceDescriptor, servicer: object) -> dict[str, Answerer]:
    """Every RPC by its path, all unary: servicer.Name(request) returns a message, or its bytes, or raises."""
    return {path_of(method): partial(_each, method, _one(method, servicer)) for method in service.methods}


def path_of(method: MethodDescriptor) -> str:
    """As HTTP/2 names it."""
    return f"/{method.containing_service.full_name}/{method.name}"


def _each(method: MethodDescriptor, answer: Callable[[bytes], Outcome], payloads: Sequence[bytes]) -> list[Outcome]:
    return [answer(payload) for payload in payloads]


def _one(method: MethodDescriptor, servicer: object) -> Callable[[bytes], Outcome]:
    decode: Callable[[bytes], Any] = GetMessageClass(method.input_type).FromString
    answer: Callable[[Any], Any] = getattr(servicer, method.name)

    def one(payload: bytes) -> Outcome:
        try:
            request = decode(payload)
        except DecodeError:
            return undecodable(method.input_type.full_name)
        try:
            response = answer(request)
            return response if isinstance(response, bytes) else response.SerializeToString()
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status
            return refusal_of(error, method.full_name)

    return one
