"""What the client says when a call fails: a status in, a sentence a person can act on out.

The other side of `engine.statuses`. Kept honest by tests/test_client.py.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


def explain(error: Any, address: str, timeout_seconds: float) -> str:
    """Say what a grpc.RpcError of a call to `address` means, and what to do."""
    code, details = error.code(), error.details()
    reason, violations = _details(error)
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            listed = "".join(f"\n  {field}: {description}" for field, description in violations)
            return f"the server refused the question as malformed:{listed or ' ' + details}"
        case grpc.StatusCode.NOT_FOUND:
            return f"not found: {details}"
        case grpc.StatusCode.UNAVAILABLE if reason:
            return f"{address} does not answer yet: {details}"
        case grpc.StatusCode.UNAVAILABLE:
            return (
                f"no answer from {address}: {details}. Is the server running there (`nearcart serve --releases DIR "
                f"--address {address}`)? If it listens elsewhere, name that with --address HOST:PORT"
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return (
                f"{address} did not answer within {timeout_seconds:g} seconds: ask for less at once, allow more time, "
                "or look at the server's load"
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"{address} answers gRPC, but is no Nearcart server of this version: {details}"
        case _:
            return f"{address} failed with {code.name}: {details}. The server's log may say more"


def _details(error: Any) -> tuple[str, list[tuple[str, str]]]:
    """The reason of the ErrorInfo, "" where there is none, and the fields and descriptions of the BadRequest."""
    status = rpc_status.from_call(error)
    reason, violations = "", []
    for detail in status.details if status is not None else ():
        info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad_request):
            violations = [(each.field, each.description) for each in bad_request.field_violations]
    return reason, violations
