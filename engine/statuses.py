"""Errors become gRPC statuses here, once, for every service and transport.

A servicer raises Nearcart's errors and knows nothing of a call. What leaves is a status with google.rpc details: an
ErrorInfo (reason, domain "nearcart") always, a BadRequest with every violation for malformed requests, a RetryInfo
where trying again soon helps. Anything unforeseen is logged with its traceback and leaves as INTERNAL without detail.
Kept honest by tests/test_service.py.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from engine.errors import (
    Forbidden,
    InvalidQuery,
    NearcartError,
    PromotionRefused,
    ReleaseCorrupt,
    ReleaseError,
    ReleaseIncompatible,
    ReleaseNotFound,
    ServerError,
    Unauthenticated,
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
    PromotionRefused: (grpc.StatusCode.FAILED_PRECONDITION, "PROMOTION_REFUSED"),
    ReleaseCorrupt: (grpc.StatusCode.FAILED_PRECONDITION, "RELEASE_CORRUPT"),
    ReleaseIncompatible: (grpc.StatusCode.FAILED_PRECONDITION, "RELEASE_INCOMPATIBLE"),
    ReleaseError: (grpc.StatusCode.FAILED_PRECONDITION, "RELEASE_UNUSABLE"),
    ServerError: (grpc.StatusCode.UNAVAILABLE, "NO_RELEASE_LOADED"),
    Unauthenticated: (grpc.StatusCode.UNAUTHENTICATED, "NO_VALID_TOKEN"),
    Forbidden: (grpc.StatusCode.PERMISSION_DENIED, "ROLE_NOT_ALLOWED"),
}
"""Status and reason of each error that may leave the server; the nearest base class counts."""
UNDECODABLE = (grpc.StatusCode.INVALID_ARGUMENT, "UNDECODABLE_REQUEST")
INTERNAL = (grpc.StatusCode.INTERNAL, "INTERNAL")
OVERLOADED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
STOPPING = (grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING")
TOO_LATE = (grpc.StatusCode.RESOURCE_EXHAUSTED, "DEADLINE_TOO_SHORT")
TOO_LARGE = (grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE")

logger = logging.getLogger(__name__)


class Refusal(NamedTuple):
    """What a call gets instead of an answer; `status` is a google.rpc.Status of that code and message, serialized."""

    code: grpc.StatusCode
    message: str
    status: bytes
    retry_seconds: float = 0.0
    """When the same call may succeed, 0 where a client need not be told."""

    @classmethod
    def of(
        cls, kind: tuple[grpc.StatusCode, str], message: str, *details: Message, retry_seconds: float = 0.0
    ) -> Refusal:
        """With an ErrorInfo of the kind's reason, and further details."""
        code, reason = kind
        encoded = message.encode()
        if len(encoded) > MAX_MESSAGE_BYTES:
            message = encoded[: MAX_MESSAGE_BYTES - 3].decode(errors="ignore") + "..."
        status = status_pb2.Status(code=code.value[0], message=message)
        for each in (error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN), *details):
            status.details.add().Pack(each)
        return cls(code, message, status.SerializeToString(), retry_seconds)

    @property
    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        """What gRPC clients read the details from."""
        return (("grpc-status-details-bin", self.status),)

    @property
    def pushback(self) -> tuple[tuple[str, str], ...]:
        """The trailer that gRPC clients obey instead of their own back-off; none where they need not be told."""
        return (("grpc-retry-pushback-ms", str(round(self.retry_seconds * 1000))),) if self.retry_seconds else ()


def refusal_of(error: Exception, method: str) -> Refusal:
    """What a call of `method` gets for an error; one that no request should be able to cause is logged."""
    if isinstance(error, NearcartError):
        for kind in type(error).__mro__:
            if kind in STATUSES:
                return _known(STATUSES[kind], error)
    logger.error("%s failed", method, exc_info=error)
    return Refusal.of(INTERNAL, "internal error; the server's log has the details")


def undecodable(message: str) -> Refusal:
    """What a call gets whose bytes are no message of this full name."""
    return Refusal.of(UNDECODABLE, f"the bytes sent are no {message}")


def overloaded(kind: tuple[grpc.StatusCode, str], message: str, retry_seconds: float) -> Refusal:
    """What a call gets that may be tried again after so long."""
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromNanoseconds(round(retry_seconds * 1e9))
    return Refusal.of(kind, message, retry, retry_seconds=retry_seconds)


def _known(kind: tuple[grpc.StatusCode, str], error: NearcartError) -> Refusal:
    violations = error.violations if isinstance(error, InvalidQuery) else ()
    if not violations:
        return Refusal.of(kind, str(error))
    details = error_details_pb2.BadRequest()
    for each in violations:
        details.field_violations.add(field=each.field, description=each.description)
    more = f" (and {len(violations) - 1} more violations in the details)" if len(violations) > 1 else ""
    return Refusal.of(kind, f"{violations[0].field} {violations[0].description}{more}", details)
