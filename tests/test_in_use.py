"""A release that somebody has open is in use, until that somebody is gone, however."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading

import pytest

from engine import in_use
from engine.errors import ReleaseError, ReleaseNotFound
from engine.in_use import Hold, LocksUnsupported, claimed
from engine.manifest import MANIFEST
from engine.release import Release
from engine.retrieval import Snapshot

OPENS = (
    "import sys\n"
    "from pathlib import Path\n"
    "from engine.retrieval import Snapshot\n"
    "snapshot = Snapshot.open(Path(sys.argv[1]))\n"
    "print('open', flush=True)\n"
    "sys.stdin.read()\n"
)


@pytest.fixture
def directory(repository):
    return repository.current_path()


@contextlib.contextmanager
def another_process(directory):
    """One that has the release open."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", OPENS, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as child:
        assert child.stdout.readline() == "open\n"
        yield child
        child.kill()


def is_free(directory):
    with claimed(directory) as free:
        return free


def test_a_snapshot_holds_its_release_until_it_is_dropped(directory):
    assert is_free(directory)
    one, other = Snapshot.open(directory), Snapshot.open(directory)
    assert not is_free(directory)
    del one
    assert not is_free(directory)
    del other
    assert is_free(directory)


def test_reading_a_release_without_holding_it_does_not_keep_it(directory):
    release = Release(directory)
    release.verify()
    assert is_free(directory)
    assert release.held() is release.held() is release
    assert not is_free(directory)
    del release
    assert is_free(directory)


def test_a_hold_ends_with_its_block_and_ends_once(directory):
    with Hold(directory) as hold:
        assert not is_free(directory)
    assert is_free(directory)
    hold.end()


def test_a_process_that_is_killed_holds_nothing(directory):
    with another_process(directory) as child:
        assert not is_free(directory)
        child.kill()
        child.wait()
        assert is_free(directory)


def test_a_child_process_does_not_inherit_a_hold(directory):
    hold = Hold(directory)
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with child:
        hold.end()
        assert is_free(directory)
        child.kill()


def test_through_a_mount_that_is_read_only_a_release_is_held_all_the_same(directory, tmp_path):
    mounted = tmp_path / "read only"
    mounted.mkdir()
    for options in (["--bind"], ["-o", "remount,ro,bind"]):
        done = subprocess.run(
            ["mount", *options, directory.parent, mounted], capture_output=True, text=True, check=False
        )
        if done.returncode:
            subprocess.run(["umount", mounted], capture_output=True, check=False)
            pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        with pytest.raises(OSError, match="Read-only"):
            (mounted / "file").touch()
        hold = Hold(mounted / directory.name)
        assert not is_free(directory)
        hold.end()
        assert is_free(directory)
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_who_opens_a_release_waits_for_who_only_looks(directory):
    looking, begun = claimed(directory), threading.Event()
    assert looking.__enter__()
    found = []

    def open_it():
        begun.set()
        found.append(Hold(directory))

    thread = threading.Thread(target=open_it)
    thread.start()
    begun.wait()
    looking.__exit__(None, None, None)
    thread.join()
    assert len(found) == 1
    assert not is_free(directory)


def test_who_opens_a_release_that_is_being_removed_is_told(directory, monkeypatch):
    monkeypatch.setattr(in_use, "_PATIENCE_SECONDS", 0.05)
    with claimed(directory), pytest.raises(ReleaseError, match="is being removed by another process"):
        Snapshot.open(directory)
    with claimed(directory) as free:
        assert free
        release = Release(directory)
        directory.rename(directory.with_name(".pruned-x"))
        with pytest.raises(ReleaseNotFound, match="was removed while it was opened"):
            release.held()


def test_a_release_that_was_replaced_between_opening_and_locking_is_opened_anew(directory, monkeypatch):
    """The lock of a file that is gone keeps nothing."""
    flock, replaced = fcntl.flock, []

    def late(descriptor, kind):
        if not replaced:
            replaced.append(True)
            shutil.copytree(directory, directory.with_name("copy"))
            directory.rename(directory.with_name(".pruned-x"))
            directory.with_name("copy").rename(directory)
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    hold = Hold(directory)
    assert not is_free(directory)
    hold.end()
    replaced.clear()
    shutil.rmtree(directory.with_name(".pruned-x"))
    assert not is_free(directory), "what was locked is not what lies there now"


def test_a_release_that_is_not_there_is_not_free(tmp_path):
    assert not is_free(tmp_path / "gone")


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK])
def test_without_locks_a_release_is_served_with_a_warning_and_never_free(directory, monkeypatch, caplog, number):
    def unsupported(descriptor, kind):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    in_use._warn_once.cache_clear()
    snapshots = [Snapshot.open(directory) for _ in range(3)]
    assert len(snapshots) == 3
    assert [record.levelname for record in caplog.records if "has no locks" in record.message] == ["WARNING"]
    with pytest.raises(LocksUnsupported), claimed(directory):
        pass


def test_other_failures_of_locking_are_not_taken_for_missing_locks(directory, monkeypatch):
    def fails(descriptor, kind):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fails)
    closed = []
    monkeypatch.setattr(os, "close", lambda descriptor, close=os.close: (closed.append(descriptor), close(descriptor)))
    with pytest.raises(ReleaseError, match="cannot read"):
        Hold(directory)
    assert len(closed) == 1


def test_a_manifest_that_is_a_link_is_not_locked(directory, tmp_path):
    (directory / MANIFEST).rename(tmp_path / MANIFEST)
    (directory / MANIFEST).symlink_to(tmp_path / MANIFEST)
    with pytest.raises(ReleaseError, match="cannot read"):
        Hold(directory)
