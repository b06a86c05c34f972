"""Clients that break the rules, each kind in a process of its own; benchmarks.fault_hostile starts and ends them.

`main` takes a kind and HOST:PORT, prints "ready", runs until its standard input ends, and then prints what it did as
one line of JSON. Bytes are made beforehand and sent in small portions, because the process shares a core with the load
whose latency is measured. Checked by tests/test_faults_benchmark.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from nearcart.v1 import recommendation_pb2 as wire

from benchmarks.bare_servers import PATH
from benchmarks.http2_requests import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    WORD,
    PreparedRequest,
    Request,
    RequestBlocks,
    frame,
    head,
)

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_RST_STREAM, _SETTINGS, _CONTINUATION = 3, 4, 9
_STREAM_WINDOW = 4
_TURN_SECONDS = 0.01
_AT_ONCE = 40
"""Connections opened in a turn."""
_RESETS = 20
"""Calls opened and reset in a turn: 2,000 a second."""
_MANY_CALLS = 8
_ENTRIES = 10_000
_BLOCK_BYTES = 16_000
_CONNECT_SECONDS = 5.0


@dataclass
class Attack:
    """What one kind has done so far."""

    address: str
    most: int
    connections: list[socket.socket] = field(default_factory=list)
    opened: int = 0
    refused: int = 0
    calls: int = 0

    def connect(self, first: bytes) -> socket.socket | None:
        """A connection on which these bytes were sent; None where that was not possible."""
        host, _, port = self.address.rpartition(":")
        try:
            connection = socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS)
            connection.setblocking(False)
            connection.send(first)
        except OSError:
            self.refused += 1
            return None
        self.connections.append(connection)
        self.opened += 1
        return connection

    def grow(self, first: bytes, calls: int = 0, at_once: int = _AT_ONCE) -> None:
        """Some connections more, as long as there are not enough."""
        for _ in range(min(at_once, self.most - self.opened - self.refused)):
            if self.connect(first) is not None:
                self.calls += calls

    def drop(self, connection: socket.socket) -> None:
        connection.close()
        self.connections.remove(connection)


def _settings(window: int | None = None) -> bytes:
    return frame(_SETTINGS, 0, 0, b"" if window is None else struct.pack(">HI", _STREAM_WINDOW, window))


def _user_request() -> PreparedRequest:
    return PreparedRequest(Request(PATH, wire.RecommendForUserRequest(user_id="user-0000001").SerializeToString()))


def _opening(blocks: RequestBlocks, stream: int) -> bytes:
    first, block = blocks.of(PATH)
    return first + WORD.pack(stream) + block


def _calls(address: str, request: PreparedRequest, n: int) -> bytes:
    """The first n calls of a connection."""
    blocks = RequestBlocks(address, ())
    numbers = range(1, 2 * n, 2)
    return b"".join(
        _opening(blocks, number) + request.data_head + WORD.pack(number) + request.body for number in numbers
    )


def idle(attack: Attack) -> Callable[[], None]:
    """Connections that are made and never used."""
    return lambda: attack.grow(_PREFACE + _settings())


def unfinished(attack: Attack) -> Callable[[], None]:
    """Connections that never finish HTTP/2's first line."""
    return lambda: attack.grow(_PREFACE[:8])


def half_open(attack: Attack) -> Callable[[], None]:
    """Calls whose message never comes, or only half of it, from clients that answer nothing, pings included."""
    request = _user_request()
    begun = _PREFACE + _settings() + _opening(RequestBlocks(attack.address, ()), 1)
    half = begun + head(DATA, 0, 8) + WORD.pack(1) + request.body[:8]
    turns = [0]

    def turn() -> None:
        turns[0] += 1
        attack.grow(half if turns[0] % 2 else begun, 1)

    return turn


def slow(attack: Attack) -> Callable[[], None]:
    """Clients that leave no window for their answers and never read; one more a turn, so that it is no overload."""
    first = _PREFACE + _settings(0) + _calls(attack.address, _user_request(), _MANY_CALLS)
    return lambda: attack.grow(first, _MANY_CALLS, at_once=1)


def resets(attack: Attack) -> Callable[[], None]:
    """Calls that are opened and reset at once, one after the other."""
    request = _user_request()
    state: dict[socket.socket, tuple[RequestBlocks, int]] = {}

    def turn() -> None:
        while len(attack.connections) < 4 and attack.refused < attack.most:
            connection = attack.connect(_PREFACE + _settings())
            if connection is not None:
                state[connection] = RequestBlocks(attack.address, ()), 1
        for connection in list(attack.connections):
            blocks, stream = state[connection]
            data = b""
            for number in range(stream, stream + 2 * (_RESETS // 4), 2):
                data += _opening(blocks, number) + request.data_head + WORD.pack(number) + request.body
                data += frame(_RST_STREAM, 0, number, WORD.pack(8))
            state[connection] = blocks, stream + 2 * (_RESETS // 4)
            if _push(attack, connection, data):
                attack.calls += _RESETS // 4

    return turn


def metadata(attack: Attack) -> Callable[[], None]:
    """Calls with ten thousand metadata entries, each on a connection of its own."""
    entries = b"".join(b"\0" + bytes((7,)) + b"x-%05d" % i + bytes((1,)) + b"v" for i in range(_ENTRIES))
    encoded = RequestBlocks(attack.address, ()).of(PATH)[1] + entries
    pieces = [encoded[at : at + _BLOCK_BYTES] for at in range(0, len(encoded), _BLOCK_BYTES)]
    last = len(pieces) - 1
    data = _PREFACE + _settings()
    for i, piece in enumerate(pieces):
        data += frame(HEADERS if i == 0 else _CONTINUATION, END_HEADERS if i == last else 0, 1, piece)
    request = _user_request()
    return _one_a_turn(attack, data + request.data_head + WORD.pack(1) + request.body)


def huge(attack: Attack) -> Callable[[], None]:
    """Frames and messages that say they are larger than anything allowed, and come as zeros."""
    begun = _PREFACE + _settings() + _opening(RequestBlocks(attack.address, ()), 1)
    frames = begun + head(DATA, END_STREAM, (1 << 24) - 1) + WORD.pack(1) + bytes(1 << 16)
    message = begun + frame(DATA, 0, 1, b"\0" + WORD.pack((1 << 32) - 1) + bytes(8_000))
    turns = [0]

    def turn() -> None:
        turns[0] += 1
        _one_a_turn(attack, frames if turns[0] % 2 else message)()

    return turn


KINDS: dict[str, tuple[Callable[[Attack], Callable[[], None]], int]] = {
    "idle": (idle, 10_000),
    "unfinished": (unfinished, 1_000),
    "half-open": (half_open, 500),
    "slow": (slow, 100),
    "resets": (resets, 1_000),
    "metadata": (metadata, 1_000),
    "huge": (huge, 1_000),
}
"""What makes the turns of each kind, and how many connections it has at most."""


def _one_a_turn(attack: Attack, data: bytes) -> Callable[[], None]:
    """Every fifth turn a new connection for these bytes; of the old ones 20 stay."""
    turns = [0]

    def turn() -> None:
        turns[0] += 1
        if turns[0] % 5 == 1 and attack.connect(data) is not None:
            attack.calls += 1
        for connection in attack.connections[:-20]:
            attack.drop(connection)

    return turn


def _push(attack: Attack, connection: socket.socket, data: bytes) -> bool:
    """Send all and read what there is; a connection that does not take it is given up."""
    try:
        with contextlib.suppress(BlockingIOError):
            if not connection.recv(1 << 16):
                raise ConnectionResetError
        if connection.send(data) == len(data):
            return True
    except OSError:
        pass
    attack.drop(connection)
    return False


def main() -> None:
    """In the process of the clients."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("address")
    parser.add_argument("--most", type=int, help="connections; as many as the kind has without")
    arguments = parser.parse_args()
    begin, most = KINDS[arguments.kind]
    attack = Attack(arguments.address, arguments.most or most)
    turn = begin(attack)
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], _TURN_SECONDS)[0]:
        turn()
    held = len(attack.connections)
    print(json.dumps({"opened": attack.opened, "refused": attack.refused, "held": held, "hostile_calls": attack.calls}))
