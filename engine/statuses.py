"""Errors become gRPC statuses here, once, for every service; so do messages that are no messages.

A servicer raises Nearcart's errors and never touches the call's context. What leaves is a status with google.rpc
details: an ErrorInfo (reason, domain "nearcart") always, a BadRequest with every violation for malformed requests.
Anything unforeseen is logged with its traceback and leaves as INTERNAL without detail. Kept honest by
tests/test_service.py.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from engine.errors import (
    InvalidQuery,
    NearcartError,
    ReleaseCorrupt,
    ReleaseError,
    ReleaseIncompatible,
    ReleaseNotFound,
    ServerError,
    UnknownItem,
    UnknownUser,
)

DOMAIN = "nearcart"
"""The domain of every ErrorInfo."""
MAX_MESSAGE_BYTES = 1_000
"""Bytes of a status message; trailers beyond 8 KiB are refused by HTTP/2 peers, and the message travels twice."""
STATUSES: dict[type[NearcartError], tuple[grpc.StatusCode, str]] = {
    InvalidQuery: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    UnknownUser: (grpc.StatusCode.NOT_FOUND, "UNKNOWN_USER"),
    UnknownItem: (grpc.StatusCode.NOT_FOUND, "UNKNOWN_ITEM"),
    ReleaseNotFound: (grpc.StatusCode.NOT_FOUND, "RELEASE_NOT_FOUND"),
    ReleaseCorrupt: (grpc.StatusCode.FAILED_PRECONDITION, "RELEASE_CORRUPT"),
    ReleaseIncompatible: (grpc.StatusCode.FAILED_PRECONDITION, "RELEASE_INCOMPATIBLE"),
    ReleaseError: (grpc.StatusCode.FAILED_PRECONDITION, "RELEASE_UNUSABLE"),
    ServerError: (grpc.StatusCode.UNAVAILABLE, "NO_RELEASE_LOADED"),
}
"""Status and reason of each error that may leave the server; the nearest base class counts."""
UNDECODABLE = (grpc.StatusCode.INVALID_ARGUMENT, "UNDECODABLE_REQUEST")
INTERNAL = (grpc.StatusCode.INTERNAL, "INTERNAL")

logger = logging.getLogger(__name__)


class Traffic:
    """Counts the calls of a service: being answered now, and answered since the start."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.answered = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.in_flight += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self.in_flight -= 1
            self.answered += 1


def add_service(server: grpc.Server, service: ServiceDescriptor, servicer: object, traffic: Traffic) -> None:
    """Register every RPC of a service, all unary, behind the conversion of errors.

    Instead of the generated add_..._to_server: there an undecodable message is INTERNAL, with a traceback in the log.
    """
    handlers = {method.name: _handler(method, getattr(servicer, method.name), traffic) for method in service.methods}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
    server.add_registered_method_handlers(service.full_name, handlers)


def status_of(error: NearcartError) -> status_pb2.Status | None:
    """The status an error leaves with; None for one that no request should be able to cause."""
    for kind in type(error).__mro__:
        if kind in STATUSES:
            violations = error.violations if isinstance(error, InvalidQuery) else ()
            message = str(error)
            if violations:
                more = f" (and {len(violations) - 1} more violations in the details)" if len(violations) > 1 else ""
                message = f"{violations[0].field} {violations[0].description}{more}"
            status = _status(STATUSES[kind], message)
            if violations:
                details = error_details_pb2.BadRequest()
                for each in violations:
                    details.field_violations.add(field=each.field, description=each.description)
                status.details.add().Pack(details)
            return status
    return None


def _handler(method: MethodDescriptor, answer: Callable[[Any, Any], Any], traffic: Traffic) -> Any:
    request_class, response_class = GetMessageClass(method.input_type), GetMessageClass(method.output_type)

    def decode(data: bytes) -> Any:
        try:
            return request_class.FromString(data)
        except DecodeError:
            return UNDECODABLE

    def guarded(request: Any, context: grpc.ServicerContext) -> Any:
        with traffic:
            if request is UNDECODABLE:
                status = _status(UNDECODABLE, f"the bytes sent are no {method.input_type.full_name}")
            else:
                try:
                    return answer(request, context)
                except NearcartError as error:
                    known = status_of(error)
                    if known is None:
                        logger.exception("%s failed", method.full_name)
                    status = known or _status(INTERNAL, "internal error; the server's log has the details")
                except Exception:
                    logger.exception("%s failed", method.full_name)
                    status = _status(INTERNAL, "internal error; the server's log has the details")
        return context.abort_with_status(rpc_status.to_status(status))

    return grpc.unary_unary_rpc_method_handler(guarded, decode, response_class.SerializeToString)


def _status(kind: tuple[grpc.StatusCode, str], message: str) -> status_pb2.Status:
    code, reason = kind
    encoded = message.encode()
    if len(encoded) > MAX_MESSAGE_BYTES:
        message = encoded[: MAX_MESSAGE_BYTES - 3].decode(errors="ignore") + "..."
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    return status
