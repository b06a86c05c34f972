"""Several worker processes that share one port: started, told what to serve, and started again when one ends.

The kernel gives each connection to one of them (SO_REUSEPORT). They are spawned, never forked, because gRPC and FAISS
do not survive a fork, and they map the same files, so that the memory of a release is there once. This process holds
the port while a worker is away, and keeps no part of a release itself. Kept honest by tests/test_worker_group.py.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from engine.addresses import held
from engine.errors import NearcartError, ReleaseError, ServerError
from engine.remote_worker import RemoteWorker, WorkerGone
from engine.serving import Figures, WorkerOptions

COMMAND = (sys.executable, "-m", "engine.worker_process")
FIRST_DELAY_SECONDS, MOST_DELAY_SECONDS = 0.1, 30.0
"""A worker that ended is started again after so long, and after twice the time if it ends again soon."""
STEADY_SECONDS = 60.0
"""A worker that ran for so long starts with the first delay again."""
CRASH_LOOP = 5
"""So many ends in a row, each soon after the start before, are reported as a crash loop."""
_STOP_SECONDS = 5.0
"""Beyond the grace period, before a worker is killed."""
PING_EVERY_SECONDS, SILENT_SECONDS = 5.0, 30.0
"""A worker that does not answer for so long is killed: what waits for it, a promotion or the end of the server, goes on
then."""
_FIGURES_SECONDS = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Loaded:
    """A release that every worker has loaded."""

    release_id: str
    path: Path


class WorkerGroup:
    """See engine.serving.Serving. `command` starts a worker; tests pass one of their own."""

    def __init__(
        self, options: WorkerOptions, workers: int, command: Sequence[str] = COMMAND, log_format: str = "text"
    ) -> None:
        self.address = ""
        self.n_restarts = 0
        self._options = replace(options, share_port=True)
        self._command, self._log_format = tuple(command), log_format
        self._serving: _Loaded | None = None
        self._healthy, self._draining = False, False
        self._stopped = threading.Event()
        self._changing = threading.RLock()
        """Held for the moment in which workers are told what to serve: one that starts learns it before or after."""
        self._slots = [_Slot(self, place) for place in range(workers)]
        self._placeholder: socket.socket | None = None

    def bind(self) -> None:
        """As the protocol says; the port is held while workers are away."""
        self._placeholder, self.address = held(self._options.address, "--address")
        self._options = replace(self._options, address=self.address)

    def start(self) -> None:
        """As the protocol says; a worker that cannot start is an error here, and is tried again later on."""
        with ThreadPoolExecutor(len(self._slots)) as threads:
            for starting in [threads.submit(slot.start) for slot in self._slots]:
                starting.result()
        for slot in self._slots:
            slot.watch()

    def load(self, path: Path) -> _Loaded:
        """As the protocol says, in one worker after the other, so that most of the processors go on answering.

        Where the first ends meanwhile no other one is asked: a release may do that to each of them.
        """
        release_id = ""
        for slot in self._slots:
            worker = slot.worker
            if worker is None:
                continue
            try:
                release_id = worker.call("load", str(path))
            except WorkerGone as error:
                if not release_id:
                    raise ReleaseError(
                        f"worker {slot.place} ended while it loaded {path.name}, and the others go on as before: look "
                        "for its last words in the log, and try again if they are not about the release"
                    ) from error
                logger.warning("worker %d ended while it loaded %s", slot.place, path.name)
            except NearcartError:
                self._tell("forget")
                raise
        if not release_id:
            raise ReleaseError(f"no worker could load {path.name}: none is running; the log says why")
        return _Loaded(release_id, path)

    def serve(self, loaded: _Loaded) -> None:
        """As the protocol says, on all workers at nearly the same moment."""
        with self._changing:
            self._serving = loaded
            self._tell("serve", str(loaded.path))

    def set_healthy(self, healthy: bool) -> None:
        """As the protocol says."""
        with self._changing:
            self._healthy = healthy
            self._tell("healthy", healthy)

    def drain(self) -> None:
        """As the protocol says."""
        self._draining = True
        self._tell("drain")

    def stop(self, grace_seconds: float) -> None:
        """As the protocol says; a worker that does not end is killed."""
        self._stopped.set()
        until = time.monotonic() + grace_seconds + _STOP_SECONDS
        for stopping in [worker.send("stop", grace_seconds) for worker in self._running()]:
            with contextlib.suppress(WorkerGone, TimeoutError, NearcartError):
                stopping.result(max(0.0, until - time.monotonic()))
        for slot in self._slots:
            slot.end()
        if self._placeholder is not None:
            self._placeholder.close()

    @property
    def is_busy(self) -> bool:
        """As the protocol says: never, nothing is left of a worker."""
        return False

    def figures(self) -> list[Figures]:
        """As the protocol says."""
        asked = [(slot.place, worker.send("figures")) for slot in self._slots if (worker := slot.worker) is not None]
        until = time.monotonic() + _FIGURES_SECONDS
        figures: list[Figures] = []
        for place, answer in asked:
            try:
                figures.append({**answer.result(max(0.0, until - time.monotonic())), "worker": place})
            except (WorkerGone, TimeoutError, ServerError):
                logger.warning("worker %d tells nothing of itself", place)
        return figures

    def fill(self, slot: _Slot) -> None:
        """Put a new worker in its place. Raises OSError, NearcartError, WorkerGone."""
        slot.starting = worker = RemoteWorker(self._command, self._options, slot.place, self._log_format)
        try:
            worker.call("ping")
            while not self._take_in(worker, slot):
                pass
        except BaseException:
            slot.worker = None
            worker.kill()
            raise
        finally:
            slot.starting = None

    def _take_in(self, worker: RemoteWorker, slot: _Slot) -> bool:
        """Tell it all that the others know, and only then let it have the port; False where they know more by now."""
        serving = self._serving
        if serving is not None:  # outside the lock: it may take minutes
            worker.call("load", str(serving.path))
        with self._changing:
            if self._serving is not serving:
                return False
            if serving is not None:
                worker.call("serve", str(serving.path))
            worker.call("healthy", self._healthy)
            worker.call("bind")
            worker.call("start")
            slot.worker = worker
        if self._draining:  # looked at last: `drain` tells those that are in their place
            worker.call("drain")
        return True

    def _running(self) -> list[RemoteWorker]:
        return [worker for slot in self._slots if (worker := slot.worker) is not None]

    def _tell(self, command: str, value: object = None) -> None:
        """Tell all workers, and wait for them. One that is gone, or cannot do it, is told when it is back."""
        for worker, answer in [(worker, worker.send(command, value)) for worker in self._running()]:
            try:
                answer.result()
            except WorkerGone:
                logger.warning("a worker ended while it was told to %s", command)
            except NearcartError as error:
                logger.error("a worker could not %s, and is killed: %s", command, error)  # noqa: TRY400 - no traceback
                worker.kill()


class _Slot:
    """The place of one worker, whichever process fills it."""

    def __init__(self, group: WorkerGroup, place: int) -> None:
        self.worker: RemoteWorker | None = None
        self.starting: RemoteWorker | None = None
        self.place = place
        self._group = group
        self._watcher = threading.Thread(target=self._watch, name=f"nearcart-worker-{place}", daemon=True)

    def start(self) -> None:
        try:
            self._group.fill(self)
        except WorkerGone as error:
            raise ServerError(f"worker {self.place} ended while it started; the log has the details") from error

    def watch(self) -> None:
        self._watcher.start()

    def end(self) -> None:
        for worker in (self.worker, self.starting):
            if worker is not None:
                worker.kill()
        if self._watcher.ident is not None:
            self._watcher.join(_STOP_SECONDS)

    def _watch(self) -> None:
        """Start a worker again whenever it ends."""
        stopped, ends = self._group._stopped, 0
        started_at = time.monotonic()
        while (worker := self.worker) is not None:
            while (status := worker.wait(PING_EVERY_SECONDS)) is None and not stopped.is_set():
                self._kill_if_silent(worker)
            if stopped.is_set():
                return
            self.worker, ran_seconds = None, time.monotonic() - started_at
            ends = 1 if ran_seconds > STEADY_SECONDS else ends + 1
            logger.error("worker %d ended with %s after %.1f seconds", self.place, status, ran_seconds)
            while self.worker is None:
                delay = min(FIRST_DELAY_SECONDS * 2 ** min(ends - 1, 30), MOST_DELAY_SECONDS)
                if ends >= CRASH_LOOP:
                    logger.critical(
                        "worker %d ends again and again, %d times so far: next start in %g seconds",
                        self.place, ends, delay,
                    )  # fmt: skip
                if stopped.wait(delay):
                    return
                started_at = time.monotonic()
                self._group.n_restarts += 1
                try:
                    self._group.fill(self)
                except Exception as error:  # noqa: BLE001 - a file of tokens, memory, ...: it may be better next time
                    ends += 1
                    logger.error("worker %d cannot be started: %s", self.place, error)  # noqa: TRY400 - no traceback
                else:
                    logger.info("worker %d is back", self.place)

    def _kill_if_silent(self, worker: RemoteWorker) -> None:
        """A process that hangs, or that somebody stopped, is as gone as one that ended."""
        answer = worker.send("ping")
        for _ in range(2):  # twice half of it: where all processes were stopped for a while, this one may be first
            try:
                answer.result(SILENT_SECONDS / 2)
            except TimeoutError:
                continue
            except (WorkerGone, NearcartError):
                pass
            return
        if not self._group._stopped.is_set():
            logger.error("worker %d did not answer for %g seconds, and is killed", self.place, SILENT_SECONDS)
            worker.kill()
