"""Which release serves: loading, checking, swapping, promoting and going back, for whatever answers.

Loading happens beside the answering: a release is opened (which checks and warms it), then the reference is swapped,
and calls in flight finish on the snapshot they began with. A load that fails changes nothing and is remembered. Two
threads live here: one follows CURRENT, one checks every file of what was loaded. Kept honest by tests/test_holder.py.
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from engine.errors import PublishFailed, ReleaseError, ReleaseNotFound, ServerError
from engine.priority import gentle_thread
from engine.serving import Loaded

MAX_RETRY_SECONDS = 300.0
"""A release that cannot be loaded is tried again after twice the time of the attempt before, up to this."""
_STOP_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Releases(Protocol):
    """What the holder needs of an `engine.repository.Repository`."""

    def current(self) -> str | None:
        """The release that CURRENT names."""

    def path(self, release_id: str) -> Path:
        """Its directory. Raises ReleaseNotFound."""

    def require_passes(self, release_id: str) -> None:
        """Compare it with the live one. Raises PromotionRefused, ReleaseError."""

    def promote(self, release_id: str, *, force: bool = False) -> None:
        """Let a release pass the gate, verify it and make it CURRENT. Raises ReleaseError."""

    def restore(self, release_id: str) -> None:
        """As `promote`, without the gate."""

    def previous_ids(self) -> list[str]:
        """The releases older than CURRENT, newest first, sound or not."""

    def verify(self, release_id: str) -> None:
        """Check every file. Raises ReleaseCorrupt."""


class LoadState(enum.Enum):
    """Where loading stands."""

    IDLE = "idle"
    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"


class Verification(enum.Enum):
    """Where the full check of the serving release stands."""

    OFF = "off"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True)
class HolderStatus:
    """What there is to know about the holder; `last_error` is "" while all is well."""

    release_id: str = ""
    load_state: LoadState = LoadState.IDLE
    verification: Verification = Verification.OFF
    last_error: str = ""
    loaded_at: datetime.datetime | None = None


class SnapshotHolder:
    """Knows the release of the moment (call it), and replaces it.

    What `open_snapshot` gave goes to `on_swap` when it is to serve. `on_health(healthy)` is called when a snapshot
    begins to serve, and with False when its files turn out damaged. With `poll_seconds` 0 CURRENT is not followed.
    Loads wait for each other; answering never waits. Tests pass a `clock` of their own, and a `wait` that lets it pass:
    wait(seconds) says whether the holder was stopped.
    """

    def __init__(
        self,
        releases: Releases,
        open_snapshot: Callable[[Path], Loaded],
        *,
        poll_seconds: float = 5.0,
        verify: bool = True,
        on_swap: Callable[[Any], None] = lambda loaded: None,
        on_health: Callable[[bool], None] = lambda healthy: None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self.status = HolderStatus()
        self._releases = releases
        self._open = open_snapshot
        self._poll_seconds = poll_seconds
        self._verify = verify
        self._on_swap, self._on_health = on_swap, on_health
        self._clock = clock
        self._snapshot: Loaded | None = None
        self.swaps = {"swapped": 0, "failed": 0}
        """Attempts to serve another release, by how they ended."""
        self._changing = threading.RLock()
        self._describing = threading.Lock()
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._threads: list[threading.Thread] = []

    def __call__(self) -> Loaded:
        """The snapshot that answers now. Raises ServerError where none is loaded yet."""
        snapshot = self._snapshot
        if snapshot is None:
            raise ServerError("no release is loaded yet: try again in a moment, or ask the health service when")
        return snapshot

    def start(self) -> None:
        """Load what CURRENT names and follow it from then on. Raises ReleaseError where it cannot be loaded."""
        self.reload()
        if self._poll_seconds > 0:
            self._run(self._follow, "nearcart-releases")

    def stop(self) -> None:
        """Stop following; a load or check under way is left to end with the process."""
        self._stopped.set()
        until = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            thread.join(timeout=max(0.0, until - time.monotonic()))

    @property
    def is_busy(self) -> bool:
        """Whether a thread follows or checks; after `stop`, whether a load or check goes on."""
        return any(thread.is_alive() for thread in self._threads)

    def reload(self, *, damaged_too: bool = False) -> bool:
        """Serve what CURRENT names; False where it was serving already. Raises ReleaseError and keeps what serves.

        With `damaged_too` a serving release that failed its check is loaded again, as after copying it anew.
        """
        with self._changing:
            release_id = self._current()
            damaged = self.status.verification is Verification.FAILED
            if release_id == self.status.release_id and not (damaged and damaged_too):
                if self.status.load_state is not LoadState.LOADED:  # CURRENT came back to what is serving
                    self._describe(load_state=LoadState.LOADED, last_error=self.status.last_error if damaged else "")
                return False
            self._swap(self._load(release_id))
            return True

    def promote(self, release_id: str, *, force: bool = False) -> None:
        """Load a release, make it CURRENT, serve it. Raises ReleaseError and leaves CURRENT alone where that fails.

        With `force` also one that the gate refuses.
        """
        if not force:  # before a load that may take minutes
            with self._changing, self._remembering(f"release {release_id} could not be promoted"):
                self._releases.require_passes(release_id)
        self._make_live(release_id, partial(self._releases.promote, force=force))

    def rollback(self) -> str:
        """Promote the newest release older than CURRENT that loads and is sound; returns its id. Raises ReleaseError.

        CURRENT moves only to a release that is loaded, so it stays where none is found.
        """
        with self._changing:
            with self._remembering("the older releases could not be listed"):
                release_ids = self._releases.previous_ids()
            for release_id in release_ids:
                try:
                    self._make_live(release_id, self._releases.restore)
                except PublishFailed:  # CURRENT cannot be written, whatever it is to name
                    raise
                except ReleaseError as error:
                    logger.warning("rolling back passes over release %s: %s", release_id, error)
                else:
                    return release_id
            tried = f", and the log says why each of the {len(release_ids):,} older ones was passed over"
            raise ReleaseNotFound(
                f"no release older than {self.current() or 'CURRENT'} can be served{tried if release_ids else ''}: "
                "there is nothing to roll back to"
            )

    def current(self) -> str:
        """What CURRENT names, "" where it names nothing or cannot be read."""
        try:
            return self._releases.current() or ""
        except (OSError, ValueError, ReleaseError):
            return ""

    def _make_live(self, release_id: str, replace_current: Callable[[str], None]) -> None:
        with self._changing:
            snapshot = self._load(release_id)
            with self._remembering(f"release {release_id} could not be promoted"):
                replace_current(release_id)
            self._swap(snapshot)

    def _current(self) -> str:
        with self._remembering("CURRENT cannot be read"):
            release_id = self._releases.current()
            if release_id is None:
                raise ReleaseNotFound(
                    "CURRENT names no release: train one with `nearcart train EVENTS --releases DIR`, or promote one "
                    "with `nearcart releases promote ID --releases DIR`"
                )
            return release_id

    def _load(self, release_id: str) -> Loaded:
        """Open a release. Raises ReleaseError."""
        self._describe(load_state=LoadState.LOADING)
        logger.info("loading release %s", release_id)
        with self._remembering(f"release {release_id} could not be loaded"):
            return self._open(self._releases.path(release_id))

    @contextlib.contextmanager
    def _remembering(self, failure: str) -> Iterator[None]:
        """Whatever goes wrong inside is a ReleaseError, and the last error of the status."""
        try:
            yield
        except ReleaseError as error:
            self._failed(str(error))
            raise
        except Exception as error:
            if isinstance(error, OSError):  # permissions, a disk that is away: nothing a traceback explains
                message = f"{failure}: {error}"
            else:
                logger.exception("%s", failure)
                message = f"{failure}: {error!r}; the server's log has the details"
            self._failed(message)
            raise ReleaseError(message) from error

    def _swap(self, snapshot: Loaded) -> None:
        self._on_swap(snapshot)
        self.swaps["swapped"] += 1
        self._snapshot = snapshot
        with self._describing:
            self.status = HolderStatus(
                release_id=snapshot.release_id,
                load_state=LoadState.LOADED,
                verification=Verification.RUNNING if self._verify else Verification.OFF,
                loaded_at=datetime.datetime.now(datetime.UTC),
            )
        logger.info("serving release %s", snapshot.release_id)
        self._on_health(True)
        if self._verify:
            self._run(lambda: self._check_files(snapshot.release_id), f"nearcart-verify-{snapshot.release_id}")

    def _check_files(self, release_id: str) -> None:
        """Compare every file with its checksum: pages are mapped from disk, so damage shows only where one looks."""
        gentle_thread()
        try:
            self._releases.verify(release_id)
        except Exception as error:
            with self._changing:
                if self.status.release_id != release_id:
                    return
                logger.critical(
                    "the serving release %s is damaged, so health says NOT_SERVING. Promote another, or copy it again "
                    "and reload: %s",
                    release_id,
                    error,
                    exc_info=not isinstance(error, ReleaseError),
                )
                self._describe(verification=Verification.FAILED, last_error=str(error))
                self._on_health(False)
            return
        with self._changing:
            if self.status.release_id == release_id:
                self._describe(verification=Verification.PASSED)
                logger.info("every file of release %s is as it was published", release_id)

    def _follow(self) -> None:
        """Reload when CURRENT changes; a release that failed is tried again, ever less often."""
        gentle_thread()
        failed_id: str | None = None  # "" is a CURRENT that names nothing
        retry_at, delay_seconds = 0.0, 0.0
        while not self._wait(self._poll_seconds):
            release_id = self.current()
            if release_id == failed_id and self._clock() < retry_at:
                continue
            try:
                self.reload()
                failed_id = None
            except ReleaseError as error:
                first = release_id != failed_id
                delay_seconds = self._poll_seconds if first else min(2 * delay_seconds, MAX_RETRY_SECONDS)
                failed_id, retry_at = release_id, self._clock() + delay_seconds
                logger.error("%s; serving %s as before", error, self.status.release_id)  # noqa: TRY400 - no traceback

    def _run(self, work: Callable[[], None], name: str) -> None:
        # Daemons: hashing a large release must not hold up the end of the process.
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()

    def _failed(self, message: str) -> None:
        self.swaps["failed"] += 1
        self._describe(load_state=LoadState.FAILED, last_error=message)

    def _describe(self, **changes: object) -> None:
        with self._describing:
            self.status = replace(self.status, **changes)  # type: ignore[arg-type]
