"""A server keeps an eye on its promise: a share of its searches is repeated by brute force, and the recall kept.

A release's recall was measured before it was published; here it is measured on what is really asked, filters and
batches included. Repeating means scoring every allowed item, without the index, so that a search that is exact by
construction is checked as well as one that is not. It is done beside the answering, by one thread, from a bounded queue
that drops what it cannot take. engine.server_metrics exports what is found. Kept honest by
tests/test_recall_sampling.py.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.recall import recall_of

if TYPE_CHECKING:
    from engine.scoring import Found
    from engine.stacked import OfEach

WINDOW = 1_000
"""The estimate is of so many searches, the last ones."""
_WAITING = 64
"""Searches that may wait for the thread; each holds its query and exclusions, and shares its mask with the cache."""
_STOP_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Scanned(Protocol):
    """What is needed of an `engine.index.Index`."""

    def scan(
        self, query: NDArray[np.float32], k: int, excluded: NDArray[np.int32], allowed: NDArray[np.bool_] | None
    ) -> Found:
        """The true answer."""


@dataclass(frozen=True)
class _Search:
    """One search that was answered with these scores."""

    release_id: str
    index: Scanned
    query: NDArray[np.float32]
    k: int
    excluded: NDArray[np.int32]
    allowed: NDArray[np.bool_] | None
    scores: NDArray[np.float32]


class RecallSampler:
    """Told of every search between `start` and `stop`; draws some, and keeps the recall of the live release's.

    `live()` names that release; another one begins another window. `draw()` is uniform in [0, 1).
    """

    def __init__(
        self, share: float, live: Callable[[], str], draw: Callable[[], float] = random.random, waiting: int = _WAITING
    ) -> None:
        self.n_sampled = 0
        self.n_dropped = 0
        self._share = share
        self._live = live
        self._draw = draw
        self._waiting: queue.Queue[_Search | None] = queue.Queue(waiting)
        self._lock = threading.Lock()
        self._release_id = ""
        self._recalls: deque[float] = deque(maxlen=WINDOW)
        self._stopped = False
        # A daemon: one long scan must not hold up the end of the process.
        self._thread = threading.Thread(target=self._work, name="nearcart-recall", daemon=True)

    def __call__(
        self,
        release_id: str,
        index: Scanned,
        queries: NDArray[np.float32],
        k: int,
        excluded: OfEach[NDArray[np.int32]],
        allowed: NDArray[np.bool_] | None,
        found: OfEach[Found],
    ) -> None:
        """A call of Index.search with its answers. Takes a random draw a query, and never waits."""
        if release_id != self._live():  # a release that is warmed before it serves, or one that no longer does
            return
        for i in range(len(queries)):
            if self._draw() < self._share:
                self._keep(_Search(release_id, index, queries[i].copy(), k, excluded[i], allowed, found[i][1]))

    def start(self) -> None:
        """Begin to repeat what is drawn."""
        self._thread.start()

    def stop(self) -> None:
        """Repeat nothing more; a scan under way is left to end with the process."""
        self._stopped = True
        with contextlib.suppress(queue.Empty):  # what waits holds its release
            while True:
                self._waiting.get_nowait()
        with contextlib.suppress(queue.Full):  # then the thread is awake, and looks
            self._waiting.put_nowait(None)
        if self._thread.ident is not None:
            self._thread.join(_STOP_SECONDS)

    @property
    def is_busy(self) -> bool:
        """Whether the thread runs; after `stop`, whether a scan goes on."""
        return self._thread.is_alive()

    def recalls(self, release_id: str) -> NDArray[np.float64]:
        """The recall of each of the last searches of this release, if it is the live one."""
        with self._lock:
            return np.array(self._recalls if release_id == self._release_id else (), dtype=np.float64)

    def _keep(self, search: _Search) -> None:
        if self._stopped:
            return
        try:
            self._waiting.put_nowait(search)
            dropped = 0
        except queue.Full:
            dropped = 1
        with self._lock:
            self.n_sampled += 1
            self.n_dropped += dropped

    def _work(self) -> None:
        while self._repeat_one():
            pass

    def _repeat_one(self) -> bool:
        """Wait for a search and repeat it; False at the end. Nothing here outlives it: a search holds its release."""
        search = self._waiting.get()
        if search is None or self._stopped:
            return False
        if search.release_id != self._live():
            return True
        try:
            exact = search.index.scan(search.query, search.k, search.excluded, search.allowed)[1]
            self._add(search.release_id, recall_of(search.scores, exact))
        except Exception:  # the estimate may do without one; answers must not do without the estimate
            logger.exception("a sampled search could not be repeated")
        return True

    def _add(self, release_id: str, recall: float) -> None:
        if release_id != self._live():
            return
        with self._lock:
            if release_id != self._release_id:
                self._release_id = release_id
                self._recalls.clear()
            self._recalls.append(recall)
