"""Old releases are deleted: what `nearcart releases prune` does.

Never the live release, never one that is in use (engine.in_use), and nothing that does not open as a release: drafts
that are being written, copies under way, whatever else lies there. A release gets a hidden name first and is deleted
then, so that a crash leaves no half release; the next prune ends what was begun. Checked by tests/test_prune.py.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ReleaseError
from engine.in_use import LocksUnsupported, claimed
from engine.manifest import reading
from engine.release import flush
from engine.repository import Repository

_HIDDEN = ".pruned-"

_log = logging.getLogger("nearcart")


@dataclass(frozen=True)
class Pruned:
    """What was done: bytes that were freed by release; releases passed over, and why; leftovers of a crash removed.

    Bytes of files that other releases share are not freed, and not counted.
    """

    removed: dict[str, int]
    passed_over: dict[str, str]
    leftovers: tuple[str, ...] = ()


def prune(repository: Repository, keep: int, *, dry_run: bool = False, force: bool = False) -> Pruned:
    """Delete releases older than the `keep` newest that open; with `dry_run` only say which.

    `force` deletes where the file system has no locks, and a server may have any of them open. Raises ReleaseError,
    also where there are no locks.
    """
    summaries = repository.summaries()
    sound = [each.release_id for each in summaries if each.problem is None]
    removed: dict[str, int] = {}
    passed_over: dict[str, str] = {}
    leftovers = () if dry_run else _leftovers(repository.root)
    for name in leftovers:
        _delete(repository.root / name)
    if len(sound) < keep:
        return Pruned(removed, passed_over, leftovers)
    oldest_kept, links = sound[-keep], Counter[tuple[int, int]]()
    for each in summaries:
        if each.release_id >= oldest_kept:
            break
        directory = repository.root / each.release_id
        if each.problem is not None:
            passed_over[each.release_id] = f"does not open, so it is yours to delete: {each.problem}"
            continue
        with _free(directory, force) as is_free:
            if each.release_id == repository.current():  # asked now: who promotes it holds it
                passed_over[each.release_id] = "is live"
            elif not is_free:
                passed_over[each.release_id] = "is in use"
            elif dry_run:
                removed[each.release_id] = _freed_bytes(directory, links)
            else:
                removed[each.release_id] = _freed_bytes(directory, Counter())
                _remove(directory)
    return Pruned(removed, passed_over, leftovers)


@contextlib.contextmanager
def _free(directory: Path, force: bool) -> Iterator[bool]:
    """Whether a release may go, and nobody takes it up before the block ends."""
    with contextlib.ExitStack() as stack:
        try:
            with reading(directory):
                is_free = stack.enter_context(claimed(directory))
        except LocksUnsupported as error:
            if not force:
                raise ReleaseError(
                    f"{directory.parent}: the file system has no locks ({error}), so nobody knows which releases are "
                    "in use, and nothing was deleted. Make sure that nobody has any but the live one open, and give "
                    "--force"
                ) from None
            _log.warning("%s is deleted by force: the file system has no locks, so it may be in use", directory)
            is_free = True
        yield is_free


def _remove(directory: Path) -> None:
    hidden = directory.with_name(f"{_HIDDEN}{directory.name}")
    with _deleting(directory):
        directory.rename(hidden)
        flush(hidden.parent)
    _delete(hidden)


def _delete(hidden: Path) -> None:
    """A directory that nobody looks at any more; another prune may be at it too."""
    with _deleting(hidden):
        while hidden.exists():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(hidden)


@contextlib.contextmanager
def _deleting(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReleaseError(
            f"could not delete {path}: {error}. Prune as the user who publishes; what was begun the next prune ends"
        ) from error


def _leftovers(root: Path) -> tuple[str, ...]:
    if not root.is_dir():
        return ()
    with reading(root):
        return tuple(sorted(each.name for each in root.iterdir() if each.name.startswith(_HIDDEN) and each.is_dir()))


def _freed_bytes(directory: Path, links: Counter[tuple[int, int]]) -> int:
    """Of the files whose last links go with it, `links` being the links that went before."""
    freed = 0
    with reading(directory):
        for path in directory.rglob("*"):
            found = path.lstat()
            if path.is_dir():
                continue
            links[found.st_dev, found.st_ino] += 1
            if links[found.st_dev, found.st_ino] == found.st_nlink:
                freed += found.st_size
    return freed
