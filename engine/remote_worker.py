"""One worker process, as who started it sees it: commands go out as lines of JSON, answers come back.

The other side is engine.worker_process. Kept honest by tests/test_worker_group.py.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from engine import errors
from engine.errors import NearcartError, ServerError
from engine.serving import WorkerOptions
from engine.worker_process import values_of

logger = logging.getLogger(__name__)


class WorkerGone(Exception):
    """The process ended before it answered."""

    def __init__(self) -> None:
        super().__init__("its process ended")


class RemoteWorker:
    """Thread-safe. The process has a group of its own: a Ctrl-C at the terminal is this process's to hear."""

    def __init__(self, command: Sequence[str], options: WorkerOptions, place: int, log_format: str) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True
        )
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._asked: dict[int, Future[Any]] = {}
        self._is_gone = False
        self._ended = threading.Event()
        self._write({"options": values_of(options), "log_format": log_format, "place": place})
        threading.Thread(target=self._read, name="nearcart-worker-answers", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def send(self, command: str, value: object = None) -> Future[Any]:
        """Tell it something; the future gives the answer or raises what came instead, WorkerGone if need be."""
        answer: Future[Any] = Future()
        with self._lock:
            if self._is_gone:
                answer.set_exception(WorkerGone())
                return answer
            id_ = next(self._ids)
            self._asked[id_] = answer
        self._write({"id": id_, "do": command, "with": value})
        return answer

    def call(self, command: str, value: object = None) -> Any:
        """`send`, and wait. Raises WorkerGone, NearcartError."""
        return self.send(command, value).result()

    def wait(self, seconds: float | None = None) -> str | None:
        """Wait for its end, and say how it ended; None where it goes on after so long."""
        if not self._ended.wait(seconds):
            return None
        code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def _write(self, line: object) -> None:
        try:
            with self._lock:
                assert self._process.stdin is not None
                self._process.stdin.write(json.dumps(line) + "\n")
                self._process.stdin.flush()
        except (OSError, ValueError):  # its end is closed: reading finds that out too
            pass

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                try:
                    self._settle(json.loads(line))
                except (ValueError, KeyError, TypeError):
                    logger.exception("a worker answered %r, which is no answer, and is killed", line[:200])
                    self._process.kill()
        with self._lock:
            self._is_gone = True
            asked, self._asked = self._asked, {}
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):  # what was written and not read
                self._process.stdin.close()
        for each in asked.values():
            each.set_exception(WorkerGone())
        self._ended.set()

    def _settle(self, answer: dict[str, Any]) -> None:
        with self._lock:
            asked = self._asked.pop(answer["id"])
        if "error" in answer:
            asked.set_exception(_error(answer["error"], answer["message"]))
        else:
            asked.set_result(answer["value"])


def _error(name: str, message: str) -> NearcartError:
    """The error that a worker raised, by the name of its class."""
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, NearcartError):
        try:
            return kind(message)
        except TypeError:  # made of more than a message
            pass
    return ServerError(message)
