"""The pool of threads to which grpcio hands the calls of engine.grpcio_transport.

A queue of calls whose message is there. grpcio itself receives the message on the thread that answers, so that as many
clients as there are threads stop a server by sending none, and there is no public way to change that: here grpcio's
polling thread begins to receive it when the call comes. What that needs of grpcio's inside is looked at before it is
relied on: where a version of grpcio changed it, threads wait for messages again, and the log says so. Kept honest by
tests/test_transports.py.
"""

from __future__ import annotations

import inspect
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
from grpc import _server as inside
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from engine.calls import Calls

MESSAGE_SECONDS = 10.0
"""A call whose message has not come by then is cut off: it has a place among those that are let in."""
MESSAGE_SECONDS_WHEN_FULL = 1.0
"""The same where others find no place: whoever sends nothing yields his."""
_STALL_SECONDS = 0.1
"""Of the time between two calls no more counts: while a process stands still no message is received, though it came."""
_INSIDE = {
    "_receive_message": ("state", "call", "request_deserializer"),
    "_is_rpc_state_active": ("state",),
    "_unary_response_in_pool": (
        "rpc_event",
        "state",
        "behavior",
        "argument_thunk",
        "request_deserializer",
        "response_serializer",
    ),
}
"""grpcio's functions that are called here, and the one whose arguments are handed over, with their parameters."""
_log = logging.getLogger("nearcart")


def knows_grpcio() -> bool:
    """Whether the installed grpcio looks inside as this module expects."""
    if not hasattr(inside, "_RECEIVE_MESSAGE_TOKEN") or not hasattr(cygrpc, "ReceiveMessageOperation"):
        return False
    functions = ((getattr(inside, name, None), parameters) for name, parameters in _INSIDE.items())
    return all(each is not None and tuple(inspect.signature(each).parameters) == names for each, names in functions)


class CallPool(ThreadPoolExecutor):
    """Threads that answer calls which were let in, and let them out; grpcio takes nothing but this class for a pool."""

    def __init__(self, threads: int, calls: Calls, prepare: Callable[[], None]) -> None:
        super().__init__(1)  # its own thread never starts: nothing is submitted to it
        self._calls, self._prepare = calls, prepare
        self._receives = knows_grpcio()
        if not self._receives:
            _log.warning("grpcio %s is newer than this server: silent clients hold up its threads", grpc.__version__)
        self._waiting: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._silent: dict[_Work, None] = {}
        self._looked, self._age = calls.clock(), 0.0
        self._local = threading.local()
        self._ours = [
            threading.Thread(target=self._serve, name=f"nearcart-answer-{i}", daemon=True) for i in range(threads)
        ]
        for each in self._ours:
            each.start()

    @property
    def n_waiting(self) -> int:
        """Calls that no thread has taken up."""
        return self._waiting.qsize()

    @property
    def arrived(self) -> float:
        """When the call came that this thread works on, by the clock of the calls."""
        return float(self._local.arrived)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Answer a call as soon as its message is there and a thread is free, or refuse one that would be too late.

        By grpcio's polling thread, which holds the lock of the call's state.
        """
        if not self._receives:
            work = _Work(partial(fn, *args, **kwargs), self._calls.clock())
            self._waiting.put(work)
            return work
        respond, event, state, behaviour, wait_for_message, *codecs = args
        if not self._calls.stay(behaviour.path, event.call_details.deadline - time.time()):
            return HERE.submit(fn, respond, event, state, behaviour.refuse, bytes, *codecs)
        message = partial(_message, state, wait_for_message)
        answer = partial(fn, respond, event, state, behaviour, message, *codecs)
        work = _Work(answer, self._calls.clock(), self._age, event.call.cancel)
        take = inside._receive_message(state, event.call, codecs[0])

        def received(happened: object) -> Any:
            done = take(happened)
            self._silent.pop(work, None)
            self._waiting.put(work)
            return done

        event.call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), received)
        state.due.add(inside._RECEIVE_MESSAGE_TOKEN)
        self._silent[work] = None
        return work

    def cut_off_silent(self) -> None:
        """End the calls whose message does not come. By one thread at a time, grpcio's."""
        now = self._calls.clock()
        self._age += min(now - self._looked, _STALL_SECONDS)
        self._looked = now
        born_before = self._age - (MESSAGE_SECONDS_WHEN_FULL if self._calls.is_full else MESSAGE_SECONDS)
        while self._silent and (oldest := next(iter(self._silent))).born < born_before:
            del self._silent[oldest]
            oldest.cut_off()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end after what they work on."""
        for _ in self._ours:
            self._waiting.put(None)
        super().shutdown(wait=wait)

    def _serve(self) -> None:
        self._prepare()
        while (work := self._waiting.get()) is not None:
            self._local.arrived = work.arrived
            try:
                work.run()
            finally:
                self._calls.leave()
                work.finish()


class _Work:
    """What grpcio wants of a Future: to be told when it is done. `cut_off` ends the call.

    It came at `arrived` by the clock of the calls, and when the pool was `born` seconds old.
    """

    def __init__(
        self,
        run: Callable[[], object],
        arrived: float,
        born: float = 0.0,
        cut_off: Callable[[], object] = lambda: None,
    ) -> None:
        self.run, self.arrived, self.born, self.cut_off = run, arrived, born, cut_off
        self._tell: Callable[[_Work], object] | None = None
        self._done = False
        self._lock = threading.Lock()

    def add_done_callback(self, tell: Callable[[_Work], object]) -> None:
        with self._lock:
            self._tell = tell
            if not self._done:
                return
        tell(self)

    def finish(self) -> None:
        with self._lock:
            self._done = True
            tell = self._tell
        if tell is not None:
            tell(self)


def _message(state: Any, wait_for_message: Callable[[], Any]) -> Any:
    """The message that has come. Where none has, or the call is over, grpcio knows what to do, and does not wait."""
    with state.condition:
        message, state.request = state.request, None
        if message is not None and inside._is_rpc_state_active(state):
            return message
    return wait_for_message()


class _Here(ThreadPoolExecutor):
    """A pool without threads: what is submitted is done at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Do it."""
        work = _Work(partial(fn, *args, **kwargs), 0.0)
        work.run()
        work.finish()
        return work


HERE = _Here(1)
"""Answers on the thread that submits."""
