"""The reference that is swapped: what a load, a failure, a promotion and a look at the files do to it."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_backend import FakeReleases, FakeSnapshot

from engine.errors import PromotionRefused, PublishFailed, ReleaseCorrupt, ReleaseError, ReleaseNotFound, ServerError
from engine.holder import MAX_RETRY_SECONDS, LoadState, SnapshotHolder, Verification
from engine.serving import Loaded


def two_releases() -> FakeReleases:
    return FakeReleases(FakeSnapshot("release 1"), FakeSnapshot("release 2"))


def holder_of(releases: FakeReleases, **options: Any) -> SnapshotHolder:
    return SnapshotHolder(releases, releases.open, **{"poll_seconds": 0.0, "verify": False, **options})


class Told:
    """Remembers what `on_health` was told, and waits for more."""

    def __init__(self) -> None:
        self.all: list[bool] = []
        self._news = threading.Condition()

    def __call__(self, healthy: bool) -> None:
        with self._news:
            self.all.append(healthy)
            self._news.notify_all()

    def wait_for(self, expected: list[bool]) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self.all == expected, timeout=10), self.all


def test_before_the_first_load_there_is_no_snapshot() -> None:
    with pytest.raises(ServerError, match="no release is loaded yet"):
        holder_of(two_releases())()


def test_what_was_loaded_is_handed_on_and_counted() -> None:
    releases, swapped = two_releases(), []
    holder = holder_of(releases, on_swap=swapped.append)
    holder.start()
    releases.failure = ReleaseCorrupt("bad file")
    with pytest.raises(ReleaseCorrupt):
        holder.promote("release 2")
    assert swapped == [releases.snapshots["release 1"]]
    assert holder.swaps == {"swapped": 1, "failed": 1}


def test_start_loads_what_current_names() -> None:
    told = Told()
    holder = holder_of(two_releases(), on_health=told)
    holder.start()
    assert holder().release_id == "release 1"
    assert told.all == [True]
    assert (holder.status.load_state, holder.status.last_error) == (LoadState.LOADED, "")


def test_reloading_what_is_serving_loads_nothing() -> None:
    releases = two_releases()
    holder = holder_of(releases)
    assert holder.reload()
    assert not holder.reload()
    assert releases.loads == ["release 1"]


@pytest.mark.parametrize("failure", [ReleaseCorrupt("bad file"), OSError("bad disk"), MemoryError()])
def test_a_load_that_fails_keeps_what_serves_and_is_remembered(failure: Exception) -> None:
    releases = two_releases()
    holder = holder_of(releases)
    holder.start()
    before = holder()
    releases.now, releases.failure = "release 2", failure
    with pytest.raises(ReleaseError) as caught:
        holder.reload()
    assert holder() is before
    assert holder.status.release_id == "release 1"
    assert (holder.status.load_state, holder.status.last_error) == (LoadState.FAILED, str(caught.value))
    releases.failure = None
    assert holder.reload()
    assert (holder().release_id, holder.status.last_error) == ("release 2", "")


def test_a_release_that_cannot_be_read_is_told_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    releases = two_releases()
    releases.failure = PermissionError(13, "Permission denied", "index.faiss")
    with pytest.raises(ReleaseError, match=r"release 1 could not be loaded: .*denied: 'index.faiss'$"):
        holder_of(releases).start()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_when_current_comes_back_to_what_serves_the_error_is_over() -> None:
    releases = two_releases()
    holder = holder_of(releases)
    holder.start()
    releases.now = "none"
    with pytest.raises(ReleaseNotFound):
        holder.reload()
    releases.now = "release 1"
    assert not holder.reload()
    assert (holder.status.load_state, holder.status.last_error) == (LoadState.LOADED, "")


@pytest.mark.parametrize("failure", [OSError("gone"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")])
def test_a_current_that_cannot_be_read_is_an_error_of_the_release(failure: Exception) -> None:
    class Unreadable(FakeReleases):
        def current(self) -> str | None:
            raise failure

    holder = holder_of(Unreadable())
    with pytest.raises(ReleaseError, match="CURRENT cannot be read"):
        holder.start()
    assert holder.current() == ""


def test_a_current_that_the_repository_cannot_read_is_the_last_error() -> None:
    releases = two_releases()
    holder = holder_of(releases)
    holder.start()

    def unreadable() -> str | None:
        raise ReleaseError("cannot read CURRENT: Permission denied")

    releases.current = unreadable  # type: ignore[method-assign]
    with pytest.raises(ReleaseError, match="Permission denied"):
        holder.reload()
    assert holder.status.last_error == "cannot read CURRENT: Permission denied"
    assert holder.status.load_state is LoadState.FAILED
    assert holder().release_id == "release 1"
    holder.stop()


def test_promoting_loads_before_current_moves() -> None:
    releases = two_releases()
    holder = holder_of(releases)
    holder.start()
    releases.failure = ReleaseCorrupt("bad file")
    with pytest.raises(ReleaseCorrupt):
        holder.promote("release 2")
    assert (releases.now, holder().release_id) == ("release 1", "release 1")
    releases.failure = None
    releases.damaged.add("release 2")
    with pytest.raises(ReleaseCorrupt):
        holder.promote("release 2")
    assert (releases.now, holder().release_id) == ("release 1", "release 1")
    assert holder.status.load_state is LoadState.FAILED
    releases.damaged.clear()
    holder.promote("release 2")
    assert (releases.now, holder().release_id) == ("release 2", "release 2")


def test_a_release_that_cannot_be_read_while_it_is_promoted_is_remembered() -> None:
    class Unreadable(FakeReleases):
        def promote(self, release_id: str, *, force: bool = False) -> None:
            raise OSError("gone")

    holder = holder_of(Unreadable(*two_releases().snapshots.values()))
    holder.start()
    with pytest.raises(ReleaseError, match="release 2 could not be promoted: gone"):
        holder.promote("release 2")
    assert holder.status.load_state is LoadState.FAILED


def test_rolling_back_passes_over_what_does_not_load_or_verify(caplog: pytest.LogCaptureFixture) -> None:
    releases = FakeReleases(*(FakeSnapshot(f"release {n}") for n in range(1, 5)))
    releases.now = "release 4"
    releases.damaged.add("release 2")

    def open_snapshot(path: Path) -> Loaded:
        if path.name == "release 3":
            assert releases.now == "release 4", "CURRENT moves to what is loaded, and to nothing else"
            raise ReleaseCorrupt("a canary gives other scores")
        return releases.open(path)

    holder = SnapshotHolder(releases, open_snapshot, poll_seconds=0, verify=False)
    holder.start()
    assert holder.rollback() == releases.now == holder().release_id == "release 1"
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple) and "over" in record.msg] == [
        "release 3",
        "release 2",
    ]


def test_rolling_back_to_nothing_leaves_current_alone() -> None:
    releases = two_releases()
    releases.now = "release 2"
    holder = holder_of(releases)
    holder.start()
    releases.failure = ReleaseCorrupt("bad file")
    with pytest.raises(ReleaseNotFound, match=r"older than release 2 .* the 1 older ones"):
        holder.rollback()
    assert releases.now == holder().release_id == "release 2"


def test_rolling_back_passes_no_gate() -> None:
    class Gated(FakeReleases):
        def promote(self, release_id: str, *, force: bool = False) -> None:
            raise PromotionRefused(release_id, "it lost much")

        def restore(self, release_id: str) -> None:
            super().promote(release_id)

    releases = Gated(*two_releases().snapshots.values())
    releases.now = "release 2"
    holder = holder_of(releases)
    holder.start()
    assert holder.rollback() == holder().release_id == "release 1"
    with pytest.raises(PromotionRefused):
        holder.promote("release 2")
    assert holder().release_id == "release 1"


def test_rolling_back_ends_where_current_cannot_be_written() -> None:
    class Full(FakeReleases):
        def promote(self, release_id: str, *, force: bool = False) -> None:
            raise PublishFailed("no space left")

    releases = Full(*(FakeSnapshot(f"release {n}") for n in range(1, 4)))
    releases.now = "release 3"
    holder = holder_of(releases)
    holder.start()
    with pytest.raises(PublishFailed, match="no space left"):
        holder.rollback()
    assert releases.loads == ["release 3", "release 2"]


def test_rolling_back_serves_the_older_release() -> None:
    releases = two_releases()
    releases.now = "release 2"
    holder = holder_of(releases)
    holder.start()
    assert holder.rollback() == holder().release_id == "release 1"
    with pytest.raises(ReleaseNotFound):
        holder.rollback()
    assert holder().release_id == "release 1"


def test_the_follower_takes_up_a_new_release() -> None:
    releases, told = two_releases(), Told()
    holder = holder_of(releases, poll_seconds=0.001, on_health=told)
    holder.start()
    releases.now = "release 2"
    told.wait_for([True, True])
    holder.stop()
    assert holder().release_id == "release 2"


def test_the_follower_survives_failures_and_tries_again(caplog: pytest.LogCaptureFixture) -> None:
    releases, told = two_releases(), Told()
    tries = threading.Semaphore(0)
    open_snapshot = releases.open

    def failing_twice(path: Any) -> Any:
        tries.release()
        if releases.loads.count("release 2") < 2:
            releases.loads.append("release 2")
            raise ReleaseCorrupt("bad file")
        return open_snapshot(path)

    holder = SnapshotHolder(releases, failing_twice, poll_seconds=0.001, verify=False, on_health=told)
    releases.loads = ["release 2", "release 2"]  # lets the first release through
    holder.start()
    releases.loads = []
    with caplog.at_level(logging.ERROR):
        releases.now = "release 2"
        told.wait_for([True, True])
    holder.stop()
    assert holder().release_id == "release 2"
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == ["bad file; serving release 1 as before"] * 2


class Clock:
    """Time that passes only while the follower waits; it is stopped at `until`."""

    def __init__(self, until: float) -> None:
        self.now = 0.0
        self.until = until

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return self.now > self.until


def test_a_release_that_fails_is_tried_ever_less_often_but_never_given_up() -> None:
    releases, clock = two_releases(), Clock(until=2_000)
    tries: list[float] = []

    def open_snapshot(path: Path) -> Loaded:
        if path.name == "release 2":
            tries.append(clock())
            raise ReleaseCorrupt("bad file")
        return releases.open(path)

    holder = SnapshotHolder(releases, open_snapshot, poll_seconds=5, verify=False, clock=clock, wait=clock.wait)
    holder.reload()
    releases.now = "release 2"
    holder._follow()
    delays = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert delays[:7] == [5, 10, 20, 40, 80, 160, MAX_RETRY_SECONDS]
    assert set(delays[7:]) == {MAX_RETRY_SECONDS}


def test_another_release_is_tried_at_once_after_one_that_failed() -> None:
    releases, clock = two_releases(), Clock(until=1_000)

    def open_snapshot(path: Path) -> Loaded:
        if path.name == "release 1":
            if clock() > 500:
                releases.now = "release 2"
            raise ReleaseCorrupt("bad file")
        return releases.open(path)

    holder = SnapshotHolder(releases, open_snapshot, poll_seconds=5, verify=False, clock=clock, wait=clock.wait)
    holder._follow()
    assert holder().release_id == "release 2"
    assert releases.loads == ["release 2"]


def test_a_missing_current_is_not_told_at_every_look(caplog: pytest.LogCaptureFixture) -> None:
    releases, clock = two_releases(), Clock(until=600)
    holder = holder_of(releases, poll_seconds=5, clock=clock, wait=clock.wait)
    holder.reload()
    releases.now = None
    holder._follow()
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 7, "at 5, 10, 20, 40, 80, 160 and 320 seconds, not 120 times"


def test_files_are_checked_after_every_load() -> None:
    releases = two_releases()
    passed = threading.Event()
    holder = holder_of(releases, verify=True)
    _when(holder, Verification.PASSED, passed)
    holder.start()
    assert passed.wait(10)
    passed.clear()
    holder.promote("release 2")
    assert passed.wait(10)


def test_damage_found_in_the_background_is_critical_until_a_sound_release_serves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    releases, told = two_releases(), Told()
    releases.damaged.add("release 1")
    holder = holder_of(releases, verify=True, on_health=told)
    holder.start()
    told.wait_for([True, False])
    assert holder.status.verification is Verification.FAILED
    assert "found checksum 12" in holder.status.last_error
    assert [record.levelname for record in caplog.records if "damaged" in record.message] == ["CRITICAL"]
    assert not holder.reload(), "following CURRENT does not load the same files again and again"
    releases.damaged.clear()
    assert holder.reload(damaged_too=True)
    told.wait_for([True, False, True])
    assert holder.status.last_error == ""


def test_damage_in_a_release_that_no_longer_serves_is_ignored() -> None:
    releases, told = two_releases(), Told()
    checking, go_on = threading.Event(), threading.Event()

    class Slow(FakeReleases):
        def verify(self, release_id: str) -> None:
            if release_id == "release 1":
                checking.set()
                assert go_on.wait(10)
                self.verified.release()
                raise ReleaseCorrupt("bad file")

    releases = Slow(*two_releases().snapshots.values())
    holder = holder_of(releases, verify=True, on_health=told)
    holder.start()
    assert checking.wait(10)
    holder.promote("release 2")
    go_on.set()
    holder.stop()
    assert told.all == [True, True]
    assert holder.status.verification is not Verification.FAILED


def _when(holder: SnapshotHolder, verification: Verification, event: threading.Event) -> None:
    """Set the event when the holder's status comes to say this."""
    describe: Callable[..., None] = holder._describe

    def watching(**changes: object) -> None:
        describe(**changes)
        if changes.get("verification") is verification:
            event.set()

    holder._describe = watching  # type: ignore[method-assign]
