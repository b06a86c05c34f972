"""Publishing, promoting and rolling back: whatever goes wrong, CURRENT names a whole release and no half is seen."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from small_release import publish, small_shop

from engine.errors import PublishFailed, ReleaseCorrupt, ReleaseError, ReleaseNotFound
from engine.release import MANIFEST, Release
from engine.repository import CURRENT, Repository

FIELDS = {"sizes": {}, "parts": [], "index": {}, "attributes": []}


def publish_array(repository, value=0, *, promote=True):
    """The smallest release: one array."""
    with repository.draft() as draft:
        draft.add_array("array", np.full(100, value))
        return repository.publish(draft, FIELDS, promote=promote)


def break_release(repository, release_id):
    """Change one bit of a release without changing its size."""
    path = repository.path(release_id) / "array.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def hidden(repository):
    """What a listing does not show: drafts and files that were to become CURRENT."""
    return [each.name for each in repository.root.iterdir() if each.name.startswith(".")]


@pytest.fixture
def empty(tmp_path):
    return Repository(tmp_path / "releases")


# Publish, list, promote, roll back.


def test_a_published_release_is_whole_listed_and_live(empty):
    release_id = publish_array(empty)
    empty.verify(release_id)
    (summary,) = empty.summaries()
    assert (summary.release_id, summary.is_current, summary.problem) == (release_id, True, None)
    assert summary.size_bytes == (empty.path(release_id) / "array.npy").stat().st_size
    assert summary.created_at.startswith("20")
    assert empty.current() == release_id
    assert empty.current_path() == empty.path(release_id)
    assert hidden(empty) == []


def test_a_release_that_is_not_promoted_leaves_current_alone(empty):
    first = publish_array(empty)
    second = publish_array(empty, promote=False)
    assert empty.current() == first
    empty.promote(second)
    assert empty.current() == second


def test_releases_are_listed_oldest_first(empty):
    published = [publish_array(empty) for _ in range(4)]
    assert [each.release_id for each in empty.summaries()] == published
    assert [each.is_current for each in empty.summaries()] == [False, False, False, True]


def test_rolling_back_goes_one_release_older_each_time_and_then_says_so(empty):
    published = [publish_array(empty) for _ in range(3)]
    assert empty.rollback() == published[1] == empty.current()
    assert empty.rollback() == published[0] == empty.current()
    with pytest.raises(ReleaseNotFound, match="nothing to roll back to"):
        empty.rollback()
    assert empty.current() == published[0]


def test_rolling_back_passes_over_broken_releases(empty):
    published = [publish_array(empty) for _ in range(4)]
    break_release(empty, published[2])
    (empty.path(published[1]) / MANIFEST).unlink()
    assert empty.rollback() == published[0]


def test_rolling_back_to_broken_releases_only_changes_nothing(empty):
    published = [publish_array(empty) for _ in range(2)]
    break_release(empty, published[0])
    with pytest.raises(ReleaseNotFound, match="no sound release older"):
        empty.rollback()
    assert empty.current() == published[1]


def test_promoting_a_broken_release_changes_nothing(empty):
    first = publish_array(empty)
    second = publish_array(empty, promote=False)
    break_release(empty, second)
    with pytest.raises(ReleaseCorrupt, match="SHA-256"):
        empty.promote(second)
    assert empty.current() == first
    assert hidden(empty) == []


def test_a_release_that_does_not_open_is_listed_with_its_problem(empty):
    published = [publish_array(empty) for _ in range(3)]
    (empty.path(published[0]) / MANIFEST).unlink()
    (empty.path(published[1]) / "array.npy").write_bytes(b"")
    problems = [each.problem for each in empty.summaries()]
    assert "has no manifest.json" in problems[0]
    assert "array.npy has 0 bytes" in problems[1]
    assert problems[2] is None


def test_a_root_that_does_not_exist_is_an_empty_repository(empty):
    assert empty.summaries() == []
    assert empty.current() is None
    with pytest.raises(ReleaseNotFound, match="nearcart train"):
        empty.current_path()
    with pytest.raises(ReleaseNotFound):
        empty.rollback()


def test_a_root_that_is_a_file_is_an_empty_repository_that_cannot_be_published_to(tmp_path):
    (tmp_path / "file").touch()
    repository = Repository(tmp_path / "file")
    assert (repository.summaries(), repository.current()) == ([], None)
    with pytest.raises(PublishFailed, match="Nothing was published"):
        publish_array(repository)


# Names.


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "x/../x", "/", ".draft-x", "x\n", "a\0b", "é", "x" * 129])
def test_only_the_name_of_a_release_finds_one(empty, name):
    publish_array(empty)
    for outside in (empty.root.parent / "x", empty.root / ".draft-x"):
        outside.mkdir()
    for ask in (empty.path, empty.promote, empty.verify):
        with pytest.raises(ReleaseNotFound, match="has no release"):
            ask(name)


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"gone\n", b"../x\n", b"..", b"/tmp", b"a\0b", b"\xff\xfe", b"x" * 100_000]
)
def test_a_current_that_names_no_release_is_not_found_and_can_be_mended(empty, content):
    release_id = publish_array(empty)
    (empty.root.parent / "x").mkdir()
    (empty.root / CURRENT).write_bytes(content)
    with pytest.raises(ReleaseNotFound) as refused:
        empty.current_path()
    assert len(str(refused.value)) < 1000
    assert [each.is_current for each in empty.summaries()] == [False]
    empty.promote(release_id)
    assert empty.current_path() == empty.path(release_id)


def test_what_lies_among_the_releases_and_is_none_does_no_harm(empty):
    release_id = publish_array(empty)
    (empty.root / "lost+found").mkdir()
    (empty.root / "notes.txt").touch()
    assert {each.release_id: each.problem is None for each in empty.summaries()} == {
        release_id: True,
        "lost+found": False,
    }
    with pytest.raises(ReleaseNotFound):
        empty.rollback()


# Crashes, and several at once.


def test_a_draft_left_by_a_killed_process_is_hidden_and_harmless(empty):
    first = publish_array(empty)
    program = (
        "import sys, numpy\n"
        "from pathlib import Path\n"
        "from engine.repository import Repository\n"
        "with Repository(Path(sys.argv[1])).draft() as draft:\n"
        "    draft.add_array('array', numpy.zeros(10))\n"
        "    print(draft.directory.name, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(empty.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as child:
        draft = child.stdout.readline().strip()
        child.kill()
    assert hidden(empty) == [draft]
    assert (empty.root / draft / "array.npy").exists()
    assert [each.release_id for each in empty.summaries()] == [first]
    with pytest.raises(ReleaseNotFound):
        empty.promote(draft)
    second = publish_array(empty)
    assert [each.release_id for each in empty.summaries()] == [first, second]
    assert empty.rollback() == first


def test_an_error_while_writing_leaves_no_draft(empty):
    def fails_while_writing(path):
        path.touch()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), empty.draft() as draft:
        draft.add_file("file", fails_while_writing)
    assert hidden(empty) == []
    assert empty.summaries() == []


def test_publishers_at_once_all_publish_and_readers_see_only_whole_releases(empty):
    publish_array(empty)
    publishers, rounds = 4, 5
    together = threading.Barrier(publishers + 1)
    published_all = threading.Event()

    def keep_publishing(value):
        together.wait()
        return [publish_array(empty, value) for _ in range(rounds)]

    def keep_reading():
        together.wait()
        readings = 0
        while readings == 0 or not published_all.is_set():
            Release(empty.current_path()).verify()
            assert all(each.problem is None for each in empty.summaries())
            readings += 1
        return readings

    with ThreadPoolExecutor(publishers + 1) as pool:
        reader = pool.submit(keep_reading)
        try:
            published = [each for ids in pool.map(keep_publishing, range(publishers)) for each in ids]
        finally:
            published_all.set()
        assert reader.result() > 0
    assert len(set(published)) == publishers * rounds
    assert {each.release_id for each in empty.summaries()} >= set(published)
    for release_id in published:
        empty.verify(release_id)
    assert empty.current() in published
    assert hidden(empty) == []


# A disk that is full, or fails.


class FailingOnce:
    """Stands for a function and fails with ENOSPC at the nth call."""

    def __init__(self, function, nth):
        self.function, self.left = function, nth

    def __call__(self, *arguments, **keywords):
        self.left -= 1
        if self.left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.function(*arguments, **keywords)


def state(repository):
    return repository.current(), [each.release_id for each in repository.summaries()], hidden(repository)


def outcome_of(repository, publish_one):
    """What became of a publication, by the words of its error."""
    try:
        publish_one()
    except PublishFailed as error:
        message = str(error)
    else:
        return "published"
    newest = repository.summaries()[-1].release_id
    if f"The release {newest} is whole but not live, and CURRENT is unchanged" in message:
        return "whole but not live"
    if f"CURRENT names {newest}, but may not" in message:
        return "live but not flushed"
    return "nothing was published" if "Nothing was published and CURRENT is unchanged" in message else message


WRITTEN, FLUSHED, RENAMED = (np.lib.format, "write_array"), (os, "fsync"), (Path, "rename")
NOTHING = "nothing was published"


@pytest.mark.parametrize(
    ("step", "outcomes"),
    [
        (WRITTEN, [NOTHING]),
        (RENAMED, [NOTHING]),
        # Array, manifest, draft's directory, root for the release's name, CURRENT, root for CURRENT's name.
        (FLUSHED, [NOTHING] * 4 + ["whole but not live", "live but not flushed"]),
    ],
)
def test_a_disk_that_fails_at_any_step_publishes_nothing_or_says_what_it_did(empty, monkeypatch, step, outcomes):
    first = publish_array(empty)
    original = getattr(*step)
    found = []
    while True:
        before = state(empty)
        with monkeypatch.context() as patched:
            failing = FailingOnce(original, len(found) + 1)
            patched.setattr(*step, lambda *a, failing=failing, **k: failing(*a, **k))
            outcome = outcome_of(empty, lambda: publish_array(empty))
        if outcome == "published":
            break
        found.append(outcome)
        current, release_ids, leftovers = state(empty)
        if outcome == NOTHING:
            assert (current, release_ids, leftovers) == before
        else:
            assert (release_ids[:-1], leftovers) == (before[1], [])
            assert current == (first if outcome == "whole but not live" else release_ids[-1])
        for release_id in release_ids:
            empty.verify(release_id)
    assert found == outcomes


def test_a_disk_that_is_really_full_publishes_nothing_whatever_room_is_left(tmp_path, shop):
    root = tmp_path / "small disk"
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", root], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {mounted.stderr.strip()}")
    try:
        repository = Repository(root / "releases")
        first = publish(repository, shop)
        outcomes = []
        for free_pages in range(60):
            space = os.statvfs(root)
            (root / "filler").write_bytes(bytes(space.f_bavail * space.f_frsize - free_pages * space.f_frsize))
            outcomes.append(outcome_of(repository, lambda: publish(repository, shop)))
            (root / "filler").unlink()
            if outcomes[-1] != "nothing was published":
                break
            assert state(repository) == (first, [first], [])
        assert len(outcomes) > 20
        assert outcomes[-1] in ("published", "whole but not live")
        for summary in repository.summaries():
            repository.verify(summary.release_id)
        assert hidden(repository) == []
        assert (repository.current() == first) == (outcomes[-1] == "whole but not live")
    finally:
        subprocess.run(["umount", root], check=True)


def test_a_repository_that_was_copied_elsewhere_works_there(repository):
    release_id = repository.current()
    repository.verify(release_id)
    assert publish(repository, small_shop(seed=5)) > release_id
    assert repository.rollback() == release_id


def test_what_cannot_be_read_is_said_without_a_traceback(repository, monkeypatch):
    release_id = repository.current()
    read_bytes, read_text = Path.read_bytes, Path.read_text

    def forbidden(self, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(ReleaseError, match=r"cannot read .*manifest\.json: Permission denied"):
        repository.verify(release_id)
    assert "Permission denied" in repository.summaries()[0].problem
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(ReleaseError, match=r"cannot read .*CURRENT: Permission denied"):
        repository.current()
    monkeypatch.setattr(Path, "read_text", read_text)
    (repository.root / "CURRENT").unlink()
    (repository.root / "CURRENT").mkdir()
    with pytest.raises(ReleaseError, match="CURRENT: Is a directory"):
        repository.current()


def test_where_nothing_is_live_nothing_is_rolled_back(repository):
    (repository.root / "CURRENT").unlink()
    assert repository.previous_ids() == []
    with pytest.raises(ReleaseNotFound, match="nothing to roll back to"):
        repository.rollback()
