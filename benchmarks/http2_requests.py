"""What is sent for a unary gRPC call over HTTP/2, as frames that are made once and sent many times.

For `benchmarks.http2_calls`, which knows the connection. Kept honest by tests/test_load_benchmark.py, against grpcio.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from hpack import Encoder

DATA, HEADERS = 0, 1
END_STREAM, END_HEADERS = 0x1, 0x4
LARGEST_HEADERS = 4_000
"""Of a call, as HTTP/2 counts them: they fit into the 4,096 bytes of table that a server has unless it says less."""
WORD = struct.Struct(">I")
_LARGEST_PAYLOAD = 16_384 - 5
_PATH_BYTES = 300


@dataclass(frozen=True)
class Request:
    """One call: `path` is /package.Service/Method, `payload` the serialized message, 16,379 bytes at most."""

    path: str
    payload: bytes

    def __post_init__(self) -> None:
        if len(self.payload) > _LARGEST_PAYLOAD:
            raise ValueError(f"a payload of {len(self.payload):,} bytes: at most {_LARGEST_PAYLOAD:,} fit into a frame")


class PreparedRequest:
    """A request as bytes, but for what depends on the connection."""

    __slots__ = ("body", "data_head", "path")

    def __init__(self, request: Request) -> None:
        self.path = request.path
        self.body = b"\0" + WORD.pack(len(request.payload)) + request.payload
        self.data_head = head(DATA, END_STREAM, len(self.body))


class RequestBlocks:
    """The heads and header blocks of HEADERS frames, by path, for one connection."""

    def __init__(self, address: str, headers: Iterable[tuple[str, str]]) -> None:
        self._before = ((":method", "POST"), (":scheme", "http"))
        common = (("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "nearcart-load"))
        self._after = ((":authority", address), *common, *headers)
        if sum(len(name) + len(value) + 32 for name, value in self._after) > LARGEST_HEADERS - _PATH_BYTES:
            raise ValueError(
                f"metadata of more than about {LARGEST_HEADERS - _PATH_BYTES:,} bytes is more than a table holds"
            )
        self._encoder = Encoder()
        self._steady: dict[str, tuple[bytes, bytes]] = {}
        self._introduced: set[str] = set()

    def of(self, path: str) -> tuple[bytes, bytes]:
        """The first call of a path puts its headers into the server's table, which moves the places of all others; from
        its second on the block is places alone and stays as it is."""
        steady = self._steady.get(path)
        if steady is not None:
            return steady
        block = self._encoder.encode((*self._before, (":path", path), *self._after))
        made = head(HEADERS, END_HEADERS, len(block)), block
        if path in self._introduced:
            self._steady[path] = made
        else:
            self._introduced.add(path)
            self._steady.clear()
        return made


def head(kind: int, flags: int, length: int) -> bytes:
    """The start of a frame, up to the number of its stream."""
    return WORD.pack(length)[1:] + bytes((kind, flags))


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return head(kind, flags, len(payload)) + WORD.pack(stream) + payload
