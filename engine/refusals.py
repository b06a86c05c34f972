"""What the client says when a call fails: a status in, a sentence a person can act on out.

The other side of `engine.statuses`. Kept honest by tests/test_client.py and tests/test_refusals.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


@dataclass(frozen=True)
class _Details:
    """Of a google.rpc.Status, what is there: the reason of the ErrorInfo or "", the fields and descriptions of the
    BadRequest, and the seconds of the RetryInfo.
    """

    reason: str = ""
    violations: tuple[tuple[str, str], ...] = ()
    retry_seconds: float | None = None


def broke_off(error: Any) -> bool:
    """Whether a grpc.RpcError says that the connection, not the server's word, ended the call."""
    return error.code() == grpc.StatusCode.UNAVAILABLE and not _details(error).reason


def explain(error: Any, address: str, timeout_seconds: float) -> str:
    """Say what a grpc.RpcError of a call to `address` means, and what to do."""
    code, text = error.code(), error.details()
    details = _details(error)
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            listed = "".join(f"\n  {field}: {description}" for field, description in details.violations)
            return f"the server refused the question as malformed:{listed or ' ' + text}"
        case grpc.StatusCode.NOT_FOUND:
            return f"not found: {text}"
        case grpc.StatusCode.UNAVAILABLE if details.reason:
            return f"{address} does not answer yet: {text}"
        case grpc.StatusCode.UNAVAILABLE:
            return (
                f"no answer from {address}: {text}. Is the server running there (`nearcart serve --releases DIR "
                f"--address {address}`)? If it listens elsewhere, name that with --address HOST:PORT; where it talks "
                "TLS, or wants a client's certificate, so must the client (--tls-ca, --tls-certificate)"
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return (
                f"{address} did not answer within {timeout_seconds:g} seconds: ask for less at once, allow more time, "
                "or look at the server's load"
            )
        case grpc.StatusCode.UNAUTHENTICATED:
            return (
                f"{address} does not know who asks: {text}. Give the client a token that stands in the server's "
                "--tokens file (--token-file FILE, token=...)"
            )
        case grpc.StatusCode.PERMISSION_DENIED:
            return f"{address} refuses this to the holder of the token: {text}. Ask with a token of another role"
        case grpc.StatusCode.RESOURCE_EXHAUSTED if details.retry_seconds is not None:
            return (
                f"{address} has more to do than it can: {text}. Ask again in {details.retry_seconds:g} seconds or "
                "later; where this lasts, ask less often or let more workers answer"
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return (
                f"{address} refuses what is too much: {text}. Ask for less at once, or raise the limit that is named "
                "(of the server's, --max-message-bytes)"
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"{address} answers gRPC, but is no Nearcart server of this version: {text}"
        case _:
            return f"{address} failed with {code.name}: {text}. The server's log may say more"


def _details(error: Any) -> _Details:
    status = rpc_status.from_call(error)
    found = _Details()
    for detail in status.details if status is not None else ():
        info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            found = replace(found, reason=info.reason)
        elif detail.Unpack(bad_request):
            listed = tuple((each.field, each.description) for each in bad_request.field_violations)
            found = replace(found, violations=listed)
        elif detail.Unpack(retry):
            found = replace(found, retry_seconds=retry.retry_delay.ToMilliseconds() / 1000)
    return found
