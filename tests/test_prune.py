"""Pruning deletes what is old and nobody's: whatever else lies there, or happens meanwhile, stays."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from small_release import publish, small_shop

from engine.calibration import rebuild_index
from engine.cli import main
from engine.errors import ReleaseError, ReleaseNotFound
from engine.in_use import Hold
from engine.manifest import MANIFEST
from engine.plan import IndexPlan
from engine.prune import prune
from engine.release import Release
from engine.repository import CURRENT, Repository
from engine.retrieval import Snapshot

FIELDS = {"sizes": {}, "parts": [], "index": {}, "attributes": []}


def publish_array(repository, *, promote=True):
    """The smallest release: one array."""
    with repository.draft() as draft:
        draft.add_array("array", np.zeros(100))
        return repository.publish(draft, FIELDS, promote=promote)


@pytest.fixture
def empty(tmp_path):
    return Repository(tmp_path / "releases")


@pytest.fixture
def ids(empty):
    """Five releases, the newest live."""
    return [publish_array(empty) for _ in range(5)]


def there(repository):
    """What lies among the releases, hidden or not."""
    return sorted(each.name for each in repository.root.iterdir())


def bytes_of(directory):
    return sum(each.stat().st_size for each in directory.rglob("*") if each.is_file())


@pytest.mark.parametrize("keep", [1, 2, 4, 5, 6, 100])
def test_the_newest_stay_and_the_others_go(empty, ids, keep):
    sizes = {each: bytes_of(empty.path(each)) for each in ids}
    pruned = prune(empty, keep)
    assert list(pruned.removed.items()) == [(each, sizes[each]) for each in ids[: max(0, 5 - keep)]]
    assert (pruned.passed_over, pruned.leftovers) == ({}, ())
    assert there(empty) == sorted([*ids[-keep:], CURRENT])
    empty.verify(ids[-1])


def test_a_dry_run_says_the_same_and_deletes_nothing(empty, ids):
    before = there(empty)
    said = prune(empty, 2, dry_run=True)
    assert there(empty) == before
    assert said == prune(empty, 2)
    assert there(empty) != before


def test_the_live_release_stays_however_old_it_is(empty, ids):
    empty.promote(ids[1])
    pruned = prune(empty, 2)
    assert list(pruned.removed) == [ids[0], ids[2]]
    assert pruned.passed_over == {ids[1]: "is live"}
    assert empty.current_path() == empty.path(ids[1])


def test_where_nothing_is_live_the_newest_stay(empty, ids):
    (empty.root / CURRENT).unlink()
    assert list(prune(empty, 1).removed) == ids[:4]


def test_a_current_that_cannot_be_read_ends_it(empty, ids):
    (empty.root / CURRENT).unlink()
    (empty.root / CURRENT).mkdir()
    with pytest.raises(ReleaseError, match="cannot read"):
        prune(empty, 1)
    assert len(there(empty)) == 6


def test_what_is_open_stays_until_it_is_closed(empty):
    ids = [publish(empty, small_shop(n_users=6, n_items=16, factors=3)) for _ in range(3)]
    snapshot = Snapshot.open(empty.path(ids[0]))
    pruned = prune(empty, 1)
    assert (list(pruned.removed), pruned.passed_over) == ([ids[1]], {ids[0]: "is in use"})
    assert snapshot.titles(["i00"]) == ["Tasse № 0"]
    del snapshot
    assert list(prune(empty, 1).removed) == [ids[0]]


def test_a_training_that_starts_from_a_release_keeps_it(empty):
    from trainer.warm_start import release_to_start_from

    ids = [publish(empty, small_shop(n_users=6, n_items=16, factors=3)) for _ in range(2)]
    previous = release_to_start_from(empty, ids[0], 3)
    assert prune(empty, 1).passed_over == {ids[0]: "is in use"}
    del previous
    assert list(prune(empty, 1).removed) == [ids[0]]


def test_a_draft_that_is_being_written_and_what_is_no_release_stay(empty, ids):
    (empty.root / "notes").mkdir()
    (empty.root / "0notes").mkdir()
    (empty.root / "0notes" / MANIFEST).write_text('{"name": "of another program"}')
    (empty.root / "0file").touch()
    shutil.copytree(empty.path(ids[0]), empty.root / "0-renamed")
    with empty.draft() as draft:
        draft.add_array("array", np.zeros(3))
        pruned = prune(empty, 1)
        assert list(pruned.removed) == ids[:4]
        assert set(pruned.passed_over) == {"0notes", "0-renamed"}
        assert "yours to delete" in pruned.passed_over["0notes"]
        published = empty.publish(draft, FIELDS, promote=True)
    empty.verify(published)
    assert there(empty) == sorted(["notes", "0notes", "0file", "0-renamed", ids[-1], published, CURRENT])


def test_a_copy_under_way_counts_for_nothing_and_stays(empty, ids):
    """Else three copies under way would be the three newest, and all that serves would go."""
    for each in ids[-2:]:
        (empty.path(each) / "array.npy").unlink()
    (empty.path(ids[0]) / MANIFEST).unlink()
    empty.promote(ids[1])
    pruned = prune(empty, 2)
    assert pruned.removed == {}
    assert list(pruned.passed_over) == [ids[0]]
    assert len(there(empty)) == 6


def test_bytes_are_those_that_become_free(repository):
    first = repository.current()
    publish(repository, small_shop(seed=1))
    rebuild_index(repository, first, IndexPlan("HNSW4"), 0.5, promote=True)
    files = [each.stat() for each in repository.path(first).rglob("*") if each.is_file()]
    shared = sum(each.st_size for each in files if each.st_nlink > 1)
    assert shared > 0
    whole = bytes_of(repository.path(first))
    dry = prune(repository, 1, dry_run=True)
    pruned = prune(repository, 1)
    assert pruned == dry
    assert pruned.removed[first] == whole - shared
    repository.verify(repository.current())


def test_bytes_of_what_goes_together_are_counted_once(repository):
    first = repository.current()
    second, _ = rebuild_index(repository, first, IndexPlan("HNSW4"), 0.5, promote=True)
    publish(repository, small_shop(seed=1))
    all_bytes = {}
    for each in (first, second):
        for path in repository.path(each).rglob("*"):
            if path.is_file():
                all_bytes[path.stat().st_ino] = path.stat().st_size
    dry = prune(repository, 1, dry_run=True)
    assert sum(dry.removed.values()) == sum(all_bytes.values())
    assert prune(repository, 1) == dry


def test_a_crash_while_deleting_leaves_no_half_release_and_the_next_prune_ends_it(empty, ids, monkeypatch):
    class Crash(BaseException):
        pass

    rmtree = shutil.rmtree

    def crashes(path, **options):
        (Path(path) / "array.npy").unlink()
        raise Crash

    monkeypatch.setattr(shutil, "rmtree", crashes)
    with pytest.raises(Crash):
        prune(empty, 1)
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    assert all(each.problem is None for each in empty.summaries())
    assert there(empty) == sorted([f".pruned-{ids[0]}", *ids[1:], CURRENT])
    said = prune(empty, 5, dry_run=True)
    assert said.leftovers == ()
    pruned = prune(empty, 5)
    assert (pruned.removed, pruned.leftovers) == ({}, (f".pruned-{ids[0]}",))
    assert there(empty) == sorted([*ids[1:], CURRENT])


def test_what_cannot_be_deleted_is_said(empty, ids, monkeypatch):
    def forbidden(self, target):
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", forbidden)
        with pytest.raises(ReleaseError, match=r"could not delete .*Permission denied"):
            prune(empty, 1)
    assert len(there(empty)) == 6
    assert list(prune(empty, 4).removed) == ids[:1]


def test_a_release_that_is_promoted_meanwhile_stays(empty, ids, monkeypatch):
    """CURRENT is read again once the release cannot be opened any more by others."""
    current, asked = empty.current, []

    def promoted_after_the_first_look():
        asked.append(current())
        return asked[0] if len(asked) == 1 else ids[0]

    monkeypatch.setattr(empty, "current", promoted_after_the_first_look)
    assert prune(empty, 4).passed_over == {ids[0]: "is live"}


def test_who_promotes_a_release_holds_it_until_it_is_live(empty, ids, monkeypatch):
    verify, found = Release.verify, []

    def prunes_meanwhile(self):
        found.append(prune(Repository(empty.root), 1))
        verify(self)

    monkeypatch.setattr(Release, "verify", prunes_meanwhile)
    empty.promote(ids[2])
    assert found[0].passed_over == {ids[2]: "is in use"}
    assert empty.current_path().is_dir()


def test_publishers_readers_and_pruners_at_once_never_lose_what_is_live(empty):
    publish_array(empty)
    rounds, ended = 12, threading.Event()

    def keep_publishing():
        return [publish_array(empty) for _ in range(rounds)]

    def keep_pruning():
        removed = []
        while not ended.is_set():
            removed += prune(empty, 1).removed
        return removed

    def keep_reading():
        readings = 0
        while readings == 0 or not ended.is_set():
            with contextlib.suppress(ReleaseNotFound):  # another became live, and this one was pruned
                release = Release(empty.current_path()).held()
                release.verify()
                readings += 1
        return readings

    with ThreadPoolExecutor(6) as pool:
        publishers = [pool.submit(keep_publishing) for _ in range(2)]
        others = [pool.submit(keep_pruning), pool.submit(keep_pruning), pool.submit(keep_reading)]
        try:
            for each in publishers:
                each.result()
        finally:
            ended.set()
        removed = others[0].result() + others[1].result()
        assert others[2].result() > 0
    assert len(removed) == len(set(removed)) > 0
    empty.verify(empty.current())


# Without locks.


def test_without_locks_nothing_is_deleted_but_by_force(empty, ids, monkeypatch, caplog):
    def unsupported(descriptor, kind):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(ReleaseError, match=r"has no locks .* nothing was deleted.*--force"):
        prune(empty, 1)
    assert len(there(empty)) == 6
    assert list(prune(empty, 1, force=True).removed) == ids[:4]
    assert sum("is deleted by force" in record.message for record in caplog.records) == 4


def test_force_deletes_nothing_that_is_known_to_be_in_use(empty, ids):
    with Hold(empty.path(ids[0])):
        assert prune(empty, 1, force=True).passed_over == {ids[0]: "is in use"}


# The command.


def test_the_command_says_what_it_deletes_and_how_many_bytes(empty, ids, capsys):
    releases = ["--releases", str(empty.root)]
    size = bytes_of(empty.path(ids[0]))
    assert main(["releases", "prune", *releases, "--keep", "3", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert f"{ids[0]} would be deleted: {size:,} bytes" in told
    assert f"2 releases would be deleted, {2 * size:,} bytes would be free" in told
    with Hold(empty.path(ids[1])):
        assert main(["releases", "prune", *releases, "--keep", "3"]) == 0
    told = capsys.readouterr().out
    assert f"{ids[0]} is deleted: {size:,} bytes" in told
    assert f"{ids[1]} stays: is in use" in told
    assert f"1 releases deleted, {size:,} bytes free" in told
    assert there(empty) == sorted([*ids[1:], CURRENT])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune"], "needs --keep N"),
        (["prune", "--keep", "0"], "at least 1"),
        (["prune", "some-id", "--keep", "1"], "takes no id"),
        (["list", "--keep", "1"], "--keep means nothing with `releases list`"),
        (["verify", "--dry-run"], "--dry-run means nothing"),
        (["rollback", "--force"], "--force means nothing"),
        (["prune", "--keep", "1", "--json"], "--json means nothing"),
    ],
)
def test_flags_that_mean_nothing_are_refused(arguments, message, tmp_path, capsys):
    assert main(["releases", *arguments, "--releases", str(tmp_path / "nowhere")]) == 2
    assert message in capsys.readouterr().err


def test_a_directory_that_does_not_exist_has_nothing_to_prune(tmp_path, capsys):
    assert main(["releases", "prune", "--keep", "1", "--releases", str(tmp_path / "nowhere")]) == 0
    assert capsys.readouterr().out == "0 releases deleted, 0 bytes free\n"
