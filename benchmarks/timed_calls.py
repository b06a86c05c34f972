"""What became of calls that a load was made of: when each was due, sent and answered, with what status.

`Record` is filled call by call while the load runs, `Calls` is what it comes to afterwards, as arrays. Latency counts
from the moment a call was due, not from when there was time to send it; that the sender kept up is in every row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

UNANSWERED, CONNECTION_LOST, NOT_CONNECTED, CANCELLED_HERE = -1, -2, -3, -4
RESET, TURNED_AWAY = 100, 200
"""Added to the HTTP/2 error code: of a stream that the server reset, and of one that a going server never began."""
LAGS_SECONDS = 0.001
"""From here on the sender was late itself: not all of a latency is the server's."""
_OWN_NAMES = {
    UNANSWERED: "UNANSWERED",
    CONNECTION_LOST: "CONNECTION_LOST",
    NOT_CONNECTED: "NOT_CONNECTED",
    CANCELLED_HERE: "CANCELLED_HERE",
}
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_HTTP2_ERRORS = {0: "NO_ERROR", 1: "PROTOCOL_ERROR", 2: "INTERNAL_ERROR", 7: "REFUSED_STREAM", 8: "CANCEL"}
_HTTP2_ERRORS |= {11: "ENHANCE_YOUR_CALM"}


def status_name(status: int) -> str:
    """`grpc.StatusCode`'s name, or what befell the call on its way."""
    for base, what in ((TURNED_AWAY, "TURNED_AWAY"), (RESET, "RESET")):
        if status >= base:
            return f"{what} {_HTTP2_ERRORS.get(status - base, status - base)}"
    return _OWN_NAMES.get(status) or _CODES.get(status) or f"status {status}"


@dataclass
class Record:
    """Calls by number. Every `keep_every`-th answer is kept, 0 means none."""

    keep_every: int = 0
    intended: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    received: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    answers: dict[int, bytes] = field(default_factory=dict)
    messages: dict[int, str] = field(default_factory=dict)
    held_back: int = 0

    def begin(self, intended: float, sent: float, asked: int) -> int:
        """The number of a new call; `asked` is the place of its request."""
        self.intended.append(intended)
        self.sent.append(sent)
        self.received.append(float("nan"))
        self.status.append(UNANSWERED)
        self.size.append(0)
        self.asked.append(asked)
        return len(self.sent) - 1

    def take(self, call: int, data: bytes) -> None:
        """A piece of a call's answer."""
        self.size[call] += len(data)
        if self.keep_every and call % self.keep_every == 0:
            self.answers[call] = self.answers.get(call, b"") + data

    def end(self, call: int, status: int, now: float, message: str = "") -> None:
        """A call is over."""
        self.status[call] = status
        self.received[call] = now
        if status:
            self.messages.setdefault(status, message)


@dataclass(frozen=True)
class Calls:
    """A load that was run: arrays with one entry for each call, and when counting `began` and `ended`.

    intended, sent, received: seconds on one clock, NaN where nothing came; sent is when the sender took a call up, also
    where the server's limit of streams then held it back. status: gRPC codes, or the numbers above. size: bytes of the
    answer's message. asked: place of the request. answers: kept ones by number of the call. messages: the first one of
    each status. Calls due before `began` warmed up: the row leaves them out.
    """

    loop: str
    offered: float
    began: float
    ended: float
    connections: int
    intended: NDArray[np.float64]
    sent: NDArray[np.float64]
    received: NDArray[np.float64]
    status: NDArray[np.int32]
    size: NDArray[np.int64]
    asked: NDArray[np.int64]
    answers: dict[int, bytes]
    messages: dict[int, str]
    held_back: int

    @classmethod
    def of(
        cls, record: Record, loop: str, offered: float, window: tuple[float, float], connections: int, deadline: float
    ) -> Calls:
        """Answers later than `deadline` seconds after sending count as DEADLINE_EXCEEDED, as a client's own timer would
        have had it, and so do streams that the server reset by then."""
        sent, received = np.array(record.sent), np.array(record.received)
        status = np.array(record.status, dtype=np.int32)
        waited = (status == 0) | (status >= RESET)
        status[waited & (received - sent >= deadline)] = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        answers = {call: answer[5:] for call, answer in record.answers.items() if status[call] == 0}
        return cls(
            loop=loop,
            offered=offered,
            began=window[0],
            ended=window[1],
            connections=connections,
            intended=np.array(record.intended),
            sent=sent,
            received=received,
            status=status,
            size=np.maximum(np.array(record.size, dtype=np.int64) - 5, 0),
            asked=np.array(record.asked, dtype=np.int64),
            answers=answers,
            messages=record.messages,
            held_back=record.held_back,
        )

    @property
    def counted(self) -> NDArray[np.bool_]:
        """The calls that were due while counting."""
        return (self.intended >= self.began) & (self.intended < self.ended)

    @property
    def achieved(self) -> float:
        """Good answers that arrived while counting, a second."""
        arrived = (self.received >= self.began) & (self.received < self.ended)
        return float(np.sum(arrived & (self.status == 0)) / (self.ended - self.began))

    def latencies(self, status: int = 0) -> NDArray[np.float64]:
        """Seconds from due to received, of the counted calls that ended with `status`."""
        chosen = self.counted & (self.status == status)
        return self.received[chosen] - self.intended[chosen]

    def in_flight(self) -> tuple[float, int]:
        """Calls that were due and not over, while counting: mean over time (Little: rate times latency), and most."""
        over = np.where(np.isnan(self.received), np.inf, self.received)
        overlap = np.minimum(over, self.ended) - np.maximum(self.intended, self.began)
        mean = float(np.maximum(overlap, 0.0).sum() / (self.ended - self.began))
        times = np.concatenate([self.intended, over])
        steps = np.repeat([1, -1], len(over))[np.argsort(times, kind="stable")]
        inside = (np.sort(times) >= self.began) & (np.sort(times) < self.ended)
        return mean, int(np.cumsum(steps)[inside].max(initial=0))

    def row(self) -> dict[str, Any]:
        """What a row says of this load; rates a second, times in milliseconds."""
        counted, good = self.counted, self.latencies() * 1e3
        statuses, counts = np.unique(self.status[counted], return_counts=True)
        errors = {status_name(int(each)): int(n) for each, n in zip(statuses, counts, strict=True) if each != 0}
        mean, most = self.in_flight()
        lag = _percentile((self.sent - self.intended)[counted], 99)
        points = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "p999_ms": 99.9, "max_ms": 100}
        return {
            "loop": self.loop,
            "offered": self.offered,
            "achieved": self.achieved,
            "calls": int(counted.sum()),
            "errors": errors,
            "in_flight_mean": mean,
            "in_flight_max": most,
            **{name: _percentile(good, point) for name, point in points.items()},
            "send_lag_p99_ms": lag * 1e3,
            "sender_lagged": lag > LAGS_SECONDS,
            "held_back": self.held_back,
            "connections": self.connections,
            "seconds": self.ended - self.began,
        }


def _percentile(values: NDArray[np.float64], point: float) -> float:
    return float(np.percentile(values, point)) if len(values) else float("nan")
