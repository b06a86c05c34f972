"""Which releases are in use: whoever has one open holds a shared lock on its manifest, which ends with its process.

The lock is the operating system's (flock), so it works on mounts that are read-only, and a process that is killed
leaves none behind. Who wants to remove a release needs the exclusive lock, and does not wait for it. Checked by
tests/test_in_use.py.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import logging
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from engine.errors import ReleaseError, ReleaseNotFound
from engine.manifest import MANIFEST, reading

_UNSUPPORTED = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL}
"""How a file system says that it has no locks."""
_PATIENCE_SECONDS = 2.0
"""Who looks whether a release may be removed has its lock for a moment, and who removes it renames it in one."""
_RETRY_SECONDS = 0.01

_log = logging.getLogger("nearcart")


class LocksUnsupported(Exception):
    """The file system has no locks, so nobody knows who has a release open."""


class Hold:
    """A release kept from being removed, for as long as this object lives or until `end`."""

    def __init__(self, directory: Path) -> None:
        """Raises ReleaseNotFound where it was removed meanwhile, ReleaseError."""
        descriptor = _shared(directory)
        self.end = weakref.finalize(self, os.close, descriptor)
        """Release it now."""

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


@contextmanager
def claimed(directory: Path) -> Iterator[bool]:
    """Whether nobody has the release open; then nobody can open it before the block ends. Raises LocksUnsupported.

    False also where it is gone. Raises OSError.
    """
    path = directory / MANIFEST
    try:
        try:  # some network file systems want to write where they lock exclusively
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except PermissionError:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _locks(descriptor, fcntl.LOCK_EX) and _is_there(path, descriptor)
    finally:
        os.close(descriptor)


def _shared(directory: Path) -> int:
    """A descriptor of the manifest with a shared lock, without one where the file system has none."""
    path, until = directory / MANIFEST, time.monotonic() + _PATIENCE_SECONDS
    while True:
        with reading(path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                raise ReleaseNotFound(
                    f"{directory} was removed while it was opened, by `nearcart releases prune`: open another release"
                ) from None
        try:
            with reading(path):
                if _locks(descriptor, fcntl.LOCK_SH) and _is_there(path, descriptor):
                    return descriptor
        except LocksUnsupported:
            _warn_once(directory.parent)
            return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > until:
            raise ReleaseError(f"{directory} is being removed by another process: open another release, or try again")
        time.sleep(_RETRY_SECONDS)


@functools.cache
def _warn_once(root: Path) -> None:
    _log.warning(
        "%s: the file system has no locks, so `nearcart releases prune` cannot know which releases are in use, and "
        "refuses there",
        root,
    )


def _locks(descriptor: int, kind: int) -> bool:
    """Take the lock; False where another has it. Raises LocksUnsupported, OSError."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise LocksUnsupported(os.strerror(error.errno)) from error
        raise
    return True


def _is_there(path: Path, descriptor: int) -> bool:
    """Whether the file that was opened still has its name: between opening and locking it may have been removed."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
