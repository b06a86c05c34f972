"""Unary gRPC calls over one plaintext HTTP/2 connection, as cheap as Python can make them; for `benchmarks.load`.

Only what a load needs of RFC 9113 and of gRPC over it: prior knowledge, requests of one DATA frame, receive windows so
large that no stream ever waits for us, and answers whose header blocks are the same bytes again and again: the server
gets no header table from us, so each distinct block is decoded once and then looked up. Our own requests do use the
server's table, as any gRPC client's do. Not here: TLS, streams of messages, compression. Kept honest by
tests/test_load_benchmark.py, against grpcio.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Iterable
from urllib.parse import unquote

import grpc
from hpack import Decoder

from benchmarks.http2_requests import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    LARGEST_HEADERS,
    WORD,
    PreparedRequest,
    RequestBlocks,
    frame,
)
from benchmarks.timed_calls import CANCELLED_HERE, CONNECTION_LOST, RESET, TURNED_AWAY, Record

_RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 3, 4, 6, 7, 8, 9
_ACK, _PADDED, _PRIORITY = 0x1, 0x8, 0x20
_FRAME = struct.Struct(">BHBBI")
_SETTING = struct.Struct(">HI")
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MOST_STREAMS, _STREAM_WINDOW = 1, 2, 3, 4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_LARGEST_WINDOW = (1 << 31) - 1
_DEFAULT_WINDOW = 65_535
_REFILL_BYTES = 1 << 29
_LAST_STREAM = 1 << 30
"""After this a connection is replaced: half of the streams that one may have."""
_READ_BYTES = 1 << 16
_CONNECT_SECONDS = 5.0
_UNKNOWN = grpc.StatusCode.UNKNOWN.value[0]
_MOST_BLOCKS = 4_096


class Connection:
    """One connection, non-blocking once it stands. Whoever owns it waits for its socket, and calls `read` and `flush`.

    `takes_calls` ends when it is lost, when the server says that it goes away, and when its stream numbers run out;
    `is_open` when it is lost.
    """

    def __init__(self, address: str, headers: Iterable[tuple[str, str]], record: Record) -> None:
        """`headers` go with every call, beside those that gRPC asks for. Raises OSError where nobody listens."""
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.is_open = self.takes_calls = True
        self.is_ready = False
        """Whether the server has told its settings; calls wait here until then."""
        self._record = record
        self._blocks = RequestBlocks(address, headers)
        self._calls: dict[int, int] = {}
        self._held: deque[tuple[int, PreparedRequest]] = deque()
        self._next_stream = 1
        self._most_streams = 1 << 31
        self._window = self._stream_window = _DEFAULT_WINDOW
        self._received_bytes = 0
        self._rest = b""
        self._begun = b""
        self._begun_flags = 0
        self._out = [_PREFACE, _own_settings(), _window_update(_LARGEST_WINDOW - _DEFAULT_WINDOW)]

    @property
    def n_calls(self) -> int:
        """Calls that are not over."""
        return len(self._calls) + len(self._held)

    @property
    def has_to_write(self) -> bool:
        """Whether the socket did not take all."""
        return bool(self._out)

    def send(self, call: int, request: PreparedRequest) -> None:
        """Have a call written at the next flush, or as soon as the server lets us."""
        if self.is_ready and not self._held and self._fits(request):
            self._write(call, request)
        else:
            self._held.append((call, request))
            self._record.held_back += 1

    def cancel(self, call: int, now: float) -> bool:
        """Reset the stream of a call; False where it is over, or still held back."""
        stream = next((stream for stream, each in self._calls.items() if each == call), None)
        if stream is None:
            return False
        del self._calls[stream]
        self._record.end(call, CANCELLED_HERE, now)
        self._out.append(frame(_RST_STREAM, 0, stream, WORD.pack(8)))
        return True

    def flush(self, now: float) -> int:
        """Write what is waiting, as much as the socket takes; returns how many calls were lost by that."""
        if self._out:
            data = b"".join(self._out) if len(self._out) > 1 else self._out[0]
            try:
                n = self.socket.send(data)
            except BlockingIOError:
                n = 0
            except OSError:
                lost = self.n_calls
                self.lose(now)
                return lost
            self._out = [data[n:]] if n < len(data) else []
        return 0

    def read(self, now: float) -> int:
        """Take in what has arrived; returns how many calls that ended."""
        before = len(self._calls) + len(self._held)
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if data:
            self._take(self._rest + data if self._rest else data, now)
        else:
            self.lose(now)
        return before - len(self._calls) - len(self._held)

    def lose(self, now: float) -> None:
        """Close; what was under way is lost."""
        self.is_open = self.takes_calls = False
        self.socket.close()
        for call in (*self._calls.values(), *(call for call, _ in self._held)):
            self._record.end(call, CONNECTION_LOST, now)
        self._calls.clear()
        self._held.clear()
        self._out = []

    def _fits(self, request: PreparedRequest) -> bool:
        n = len(request.body)
        return len(self._calls) < self._most_streams and n <= self._window and n <= self._stream_window

    def _write(self, call: int, request: PreparedRequest) -> None:
        stream = self._next_stream
        self._next_stream = stream + 2
        if stream > _LAST_STREAM:
            self.takes_calls = False
        self._calls[stream] = call
        self._window -= len(request.body)
        number = WORD.pack(stream)
        head, block = self._blocks.of(request.path)
        self._out.append(b"".join((head, number, block, request.data_head, number, request.body)))

    def _take(self, data: bytes, now: float) -> None:
        """Frames, as far as they are whole. The two kinds that make up answers are looked at first."""
        at, end, calls, record = 0, len(data), self._calls, self._record
        while end - at >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, at)
            start = at + 9
            stop = start + (high << 16 | low)
            if stop > end:
                break
            at = stop
            if kind == DATA and not flags & _PADDED:
                self._received_bytes += stop - start
                if stream in calls:
                    record.take(calls[stream], data[start:stop])
                    if flags & END_STREAM:  # without trailers: no gRPC server should
                        record.end(calls.pop(stream), _UNKNOWN, now, "the answer ended without a status")
            elif kind == HEADERS and flags & END_HEADERS and not flags & (_PADDED | _PRIORITY):
                if flags & END_STREAM and stream in calls:
                    self._end(stream, data[start:stop], now)
            else:
                self._take_other(kind, flags, stream, data[start:stop], now)
        self._rest = data[at:]
        if self._received_bytes > _REFILL_BYTES:
            self._out.append(_window_update(self._received_bytes))
            self._received_bytes = 0
        while self._held and self.is_ready and self._fits(self._held[0][1]):
            self._write(*self._held.popleft())

    def _end(self, stream: int, trailers: bytes, now: float) -> None:
        status, message = _status_in(trailers)
        self._record.end(self._calls.pop(stream), status, now, message)

    def _take_other(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._take_settings(payload)
            self._out.append(frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._out.append(frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += WORD.unpack(payload)[0]
        elif kind == _RST_STREAM and stream in self._calls:
            self._record.end(self._calls.pop(stream), RESET + WORD.unpack(payload)[0], now)
        elif kind == _GOAWAY:
            self._take_goaway(*struct.unpack_from(">II", payload), payload[8:].decode(errors="replace"), now)
        elif kind == HEADERS and not flags & (_PADDED | _PRIORITY):
            self._begun, self._begun_flags = payload, flags
        elif kind == _CONTINUATION:
            self._begun += payload
            if flags & END_HEADERS and self._begun_flags & END_STREAM and stream in self._calls:
                self._end(stream, self._begun, now)
        elif flags & (_PADDED | _PRIORITY) and kind in (DATA, HEADERS):
            raise ValueError("the server pads or prioritizes its frames, which no gRPC server is known to do")

    def _take_settings(self, payload: bytes) -> None:
        for name, value in _SETTING.iter_unpack(payload):
            if name == _MOST_STREAMS:
                self._most_streams = value
            elif name == _STREAM_WINDOW:
                self._stream_window = value
            elif name == _HEADER_TABLE_SIZE and value < LARGEST_HEADERS:
                raise ValueError(f"the server allows a header table of {value:,} bytes; {LARGEST_HEADERS:,} are needed")
        self.is_ready = True

    def _take_goaway(self, last_stream: int, error: int, message: str, now: float) -> None:
        """Calls that the server did not begin are over; the others are still answered."""
        self.takes_calls = False
        for stream in [each for each in self._calls if each > last_stream]:
            self._record.end(self._calls.pop(stream), TURNED_AWAY + error, now, message)
        for call, _ in self._held:
            self._record.end(call, TURNED_AWAY + error, now, message)
        self._held.clear()


_decoded: dict[bytes, tuple[int, str]] = {}
_decoder = Decoder()


def _status_in(block: bytes) -> tuple[int, str]:
    """The status in a block of trailers, and the message."""
    found = _decoded.get(block)
    if found is None:
        headers = dict(_decoder.decode(block))
        http = "" if headers.get(":status", "200") == "200" else f"HTTP status {headers[':status']} "
        found = int(headers.get("grpc-status", _UNKNOWN)), http + unquote(headers.get("grpc-message", ""))
        if len(_decoded) < _MOST_BLOCKS:
            _decoded[block] = found
    return found


def _own_settings() -> bytes:
    wanted = {_HEADER_TABLE_SIZE: 0, _ENABLE_PUSH: 0, _STREAM_WINDOW: _LARGEST_WINDOW}
    return frame(_SETTINGS, 0, 0, b"".join(_SETTING.pack(*each) for each in wanted.items()))


def _window_update(n_bytes: int) -> bytes:
    return frame(_WINDOW_UPDATE, 0, 0, WORD.pack(n_bytes))
