"""The transport of pygrpc-native: HTTP/2 and gRPC in Rust, outside the interpreter's lock. Plaintext only.

Calls come in batches, as many as have arrived. One thread at a time receives; where what it received is answered faster
than anyone notices it answers at once, and otherwise lets another one receive, so that refusals need not wait for
searches ("leader/followers": Schmidt, O'Ryan et al., PLoP 2000). What the package does not do, health, reflection and
unknown methods, goes through a grpcio server on a local socket. Kept honest by tests/test_transports.py.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from engine.calls import Calls
from engine.errors import UsageError
from engine.grpcio_transport import Register
from engine.keepalive import SERVER_PING_EVERY_SECONDS, SERVER_PING_TIMEOUT_SECONDS
from engine.methods import Outcome
from engine.statuses import TOO_LARGE, Refusal
from engine.transport import TransportOptions

_RECEIVED = 256
"""Calls received at once, at most."""
_TOGETHER = 16
"""Calls answered at once, at most: enough to share what a batch costs."""
_NOTICED_SECONDS = 0.0005
"""What takes longer is not done by the thread that receives."""
_SMALL_BYTES = 256
"""A longer request may take much longer than the mean, so that the thread that receives leaves it to another one."""
_FLUSH_SECONDS = 0.1
"""From the last answer to the end of its connection."""
_METADATA_BYTES = 16 * 1024


class _Call(NamedTuple):
    path: str
    payload: bytes
    arrived: float
    expires: float | None


class NativeTransport:
    """See engine.transport.Transport. `prepare` runs in each thread before its first call.

    Raises UsageError for options that the package does not have, and where it is not installed.
    """

    def __init__(
        self, calls: Calls, options: TransportOptions, register: Sequence[Register], prepare: Callable[[], None]
    ) -> None:
        if options.credentials is not None:
            raise UsageError(
                "--transport native speaks plaintext only: found a TLS certificate; leave it away (behind a mesh, "
                "or on loopback), or use --transport grpcio"
            )
        if options.max_connection_age_seconds:
            raise UsageError(
                "--transport native keeps connections for as long as clients do: found --max-connection-age-seconds "
                f"{options.max_connection_age_seconds:g}, expected 0; or use --transport grpcio"
            )
        self._native = _package()
        self._calls, self._options, self._prepare = calls, options, prepare
        self._too_large = Refusal.of(
            TOO_LARGE, f"the request is larger than {options.max_message_bytes:,} bytes: send less at once"
        )
        self._paths = list(calls.methods)
        self._waiting: dict[int, _Call] = {}
        self._state = threading.Lock()
        self._leading = threading.Lock()
        self._free = options.threads
        self._threads = [
            threading.Thread(target=self._serve, name=f"nearcart-answer-{i}", daemon=True)
            for i in range(options.threads + 1)
        ]
        self._aside = ThreadPoolExecutor(2, "nearcart-aside")
        self._fallback = grpc.server(self._aside)
        for each in register:
            each(self._fallback)
        self._directory = Path(tempfile.mkdtemp(prefix="nearcart-"))
        self._front: Any = None

    def bind(self, address: str) -> int:
        """As the protocol says."""
        try:
            self._front = self._native.NativeGrpcFront(
                address,
                [(path, False) for path in self._paths],
                io_threads=1,
                call_details=True,
                keepalive_time_ms=SERVER_PING_EVERY_SECONDS * 1000,
                keepalive_timeout_ms=SERVER_PING_TIMEOUT_SECONDS * 1000,
                keepalive_permit_without_calls=True,
                max_concurrent_streams=self._options.max_concurrent_streams,
                max_metadata_size=_METADATA_BYTES,
                reuse_port=self._options.share_port,
            )
        except (OSError, ValueError) as error:
            raise RuntimeError(str(error)) from error
        return int(self._front.bound_port)

    def start(self) -> None:
        """As the protocol says."""
        socket = str(self._directory / "aside.sock")
        self._fallback.add_insecure_port(f"unix:{socket}")
        self._fallback.start()
        self._front.set_fallback(socket)
        self._front.start()
        for each in self._threads:
            each.start()

    def stop(self, grace_seconds: float) -> Callable[[], None]:
        """As the protocol says."""
        self._calls.close()
        aside = self._fallback.stop(grace_seconds)

        def wait() -> None:
            # Closing cuts connections, with answers that are not yet on their way. Who comes meanwhile is refused.
            self._calls.wait_until_idle(grace_seconds)
            time.sleep(_FLUSH_SECONDS)
            if self._front is not None:
                self._front.close()
            aside.wait()
            self._aside.shutdown(wait=False, cancel_futures=True)
            shutil.rmtree(self._directory, ignore_errors=True)

        return wait

    @property
    def n_waiting(self) -> int:
        """As the protocol says."""
        return len(self._waiting)

    @property
    def is_busy(self) -> bool:
        """As the protocol says."""
        return self._free < self._options.threads

    def _serve(self) -> None:
        self._prepare()
        while True:
            with self._leading:
                if not self._lead():
                    return
            self._work()

    def _lead(self) -> bool:
        """Receive calls, and answer them while that is fast; return when there is longer work, or False at the end.

        On True a place among the working threads has been taken.
        """
        while True:
            with self._state:
                more = bool(self._waiting) and self._free > 0
            events = self._front.recv_batch_details(_RECEIVED, 0 if more else None)
            if events is None:
                return False
            for event in events:
                self._take(*event)
            with self._state:
                if not self._waiting or not self._free:
                    continue
                self._free -= 1
            if not self._is_quick():
                return True
            self._answer_some()
            with self._state:
                self._free += 1

    def _work(self) -> None:
        """Answer until nothing waits, beside the thread that receives now."""
        while True:
            self._answer_some()
            with self._state:
                if not self._waiting:
                    self._free += 1
                    return

    def _take(self, kind: int, call_id: int, method: int, payload: bytes | None, key: object, details: Any) -> None:
        """Let one call in, or refuse it, or forget one that was cancelled."""
        if kind != self._native.EVENT_CALL or payload is None:
            with self._state:
                forgotten = self._waiting.pop(call_id, None)
            if forgotten is not None:
                self._calls.leave()
            return
        path, (metadata, _, left) = self._paths[method], details
        refusal = self._calls.enter(path, metadata, left)
        if refusal is not None:
            self._send(call_id, refusal)
        elif len(payload) > self._options.max_message_bytes:
            self._calls.leave()
            self._send(call_id, self._too_large)
        else:
            now = self._calls.clock()
            with self._state:
                self._waiting[call_id] = _Call(path, payload, now, None if left is None else now + left)

    def _is_quick(self) -> bool:
        """Whether answering the next call will not be noticed."""
        with self._state:
            call = next(iter(self._waiting.values()))
        return 0 < self._calls.seconds_of(call.path) < _NOTICED_SECONDS and len(call.payload) <= _SMALL_BYTES

    def _answer_some(self) -> None:
        """Answer the calls of one method that have waited longest, as many as are done unnoticed, one at least."""
        calls = self._calls
        with self._state:
            first = next(iter(self._waiting.values()), None)
            if first is None:
                return
            most = min(_TOGETHER, 1 + int(_NOTICED_SECONDS / max(calls.seconds_of(first.path), 1e-9)))
            chosen: list[tuple[int, _Call]] = []
            for item in self._waiting.items():
                if len(chosen) == most or item[1].path != first.path:
                    break
                chosen.append(item)
            for call_id, _ in chosen:
                del self._waiting[call_id]
        now, seconds = calls.clock(), calls.seconds_needed(first.path)
        timely = [(call_id, call) for call_id, call in chosen if call.expires is None or now + seconds < call.expires]
        if len(timely) < len(chosen):
            left = {call_id for call_id, _ in timely}
            for call_id, _ in chosen:
                if call_id not in left:
                    self._send(call_id, calls.late(first.path))
        if timely:
            outcomes = calls.answer(
                first.path, [call.payload for _, call in timely], [call.arrived for _, call in timely]
            )
            for (call_id, _), outcome in zip(timely, outcomes, strict=True):
                self._send(call_id, outcome)
        calls.leave(len(chosen))

    def _send(self, call_id: int, outcome: Outcome) -> None:
        if isinstance(outcome, bytes):
            self._front.respond(call_id, outcome)
        else:
            self._front.fail(call_id, outcome.code.value[0], outcome.message, outcome.trailers)


def _package() -> Any:
    with contextlib.suppress(ImportError):
        import pygrpc_native

        return pygrpc_native
    raise UsageError(
        "--transport native needs the package pygrpc-native, which is not installed: pip install 'nearcart[native]', "
        "or use --transport grpcio"
    )
