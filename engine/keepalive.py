"""How often a client may ping a server, and does: one place for both sides, because a server that is pinged more often
than it permits closes the connection.

Kept honest by tests/test_connections.py.
"""

from __future__ import annotations

PERMITTED_EVERY_SECONDS = 10
"""A server accepts a ping this often, with or without calls; the third that comes earlier ends the connection."""
PING_EVERY_SECONDS = 20
"""A client pings a connection on which nothing was heard for so long: it stays open in the tables of what is between,
and one whose other end is gone is found before a call is sent on it.
"""
PING_TIMEOUT_SECONDS = 5
"""Without an answer to a ping for so long, a connection is closed and its calls fail with UNAVAILABLE."""

SERVER_PING_EVERY_SECONDS = 60
"""A server pings a connection on which nothing was heard for so long, to find one whose other end is gone."""
SERVER_PING_TIMEOUT_SECONDS = 20
"""Without an answer to it for so long, the connection is closed."""

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.http2.min_recv_ping_interval_without_data_ms", PERMITTED_EVERY_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", SERVER_PING_EVERY_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", SERVER_PING_TIMEOUT_SECONDS * 1000),
)
"""Of a gRPC server that keeps what is promised here."""
CLIENT_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", PING_EVERY_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
"""Of a gRPC channel; 0 is without a bound, where the default stops after two pings."""
