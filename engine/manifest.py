"""The manifest of a release: read with suspicion, because everything else is read by what it says.

Its checksum tells damage, and no more: whoever writes a release can compute one. So what it says is checked before it
is used: versions, fields, sizes, and names of files, which lead to plain files inside the release and nowhere else.
Kept honest by tests/test_release.py and tests/test_release_fuzz.py.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.errors import ReleaseCorrupt, ReleaseError, ReleaseIncompatible, ReleaseNotFound

MANIFEST = "manifest.json"
FORMAT_VERSION = 2
"""What is written."""
_READABLE = (1, 2)
_REQUIRED = {
    "release_id": str, "created_at": str, "files": dict,
    "sizes": dict, "parts": list, "index": dict, "attributes": list,
}  # fmt: skip
_MOST_BYTES = 1 << 24
"""Of a manifest; one with a thousand attributes has about half a megabyte."""
_FILE_NAME = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]*(/[0-9A-Za-z_][0-9A-Za-z_.-]*)*")
_LARGEST_FILE = 1 << 63
_SHA256 = re.compile(r"[0-9a-f]{64}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns an OSError inside the block into ReleaseError, which says what cannot be read and by whom."""
    try:
        yield
    except OSError as error:
        raise ReleaseError(
            f"cannot read {path}: {error.strerror or error}. Releases must be readable for the user who runs this"
        ) from error


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read and check the manifest of a release. Raises ReleaseNotFound, ReleaseCorrupt, ReleaseIncompatible."""
    path = directory / MANIFEST
    with reading(path):
        exists, size = directory.is_dir(), plain_size(directory, MANIFEST)
        content = path.read_bytes() if size is not None and size <= _MOST_BYTES else None
    if not exists:
        raise ReleaseNotFound(f"{directory} is not a directory: expected a release")
    if size is None:
        raise ReleaseCorrupt(f"{directory} has no {MANIFEST}: it was never finished, or is not a release")
    if content is None:
        raise ReleaseCorrupt(f"{path} has {size:,} bytes, expected {_MOST_BYTES:,} at most: it is no manifest")
    try:
        manifest = json.loads(content)
        checksum = manifest_checksum(manifest) if isinstance(manifest, dict) else ""
    except (ValueError, RecursionError) as error:
        raise ReleaseCorrupt(f"{path} is not JSON ({error}): copy the release again, or roll back") from error
    if not isinstance(manifest, dict) or "format_version" not in manifest:
        raise ReleaseCorrupt(f"{path} names no format_version: it is not the manifest of a release")
    version = manifest["format_version"]
    if version in _READABLE and manifest.get("checksum") != checksum:
        raise ReleaseCorrupt(f"{path} does not match its own checksum: it was changed or damaged after publishing")
    if version not in _READABLE:
        raise ReleaseIncompatible(
            f"{path} is of format version {str(version)[:32]}; this program reads versions "
            f"{' and '.join(map(str, _READABLE))}: "
            "serve it with the program that wrote it, or train again"
        )
    for name, kind in _REQUIRED.items():
        if not isinstance(manifest.get(name), kind):
            raise ReleaseCorrupt(f"{path} has no {kind.__name__} {name!r}, which every release has")
    for name, entry in manifest["files"].items():
        _require_file(path, name, entry)
    for each in manifest["attributes"]:
        if not (isinstance(each, dict) and isinstance(each.get("name"), str) and isinstance(each.get("kind"), str)):
            raise ReleaseCorrupt(f"{path} has an attribute without a name or a kind: copy the release again")
    return manifest


def manifest_checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of everything but the checksum itself."""
    body = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def plain_size(directory: Path, name: str) -> int | None:
    """The size of a plain file below a directory; None where there is none, or a link stands for it or on the way.

    Raises OSError.
    """
    path, parts = directory, name.split("/")
    for place, part in enumerate(parts, start=1):
        path = path / part
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        is_expected = stat.S_ISREG if place == len(parts) else stat.S_ISDIR
        if not is_expected(found.st_mode):
            return None
    return found.st_size


def _require_file(path: Path, name: str, entry: object) -> None:
    """Raises ReleaseCorrupt for a name that may lead out of the release, and for what is no size or no SHA-256."""
    if not _FILE_NAME.fullmatch(name):
        raise ReleaseCorrupt(
            f"{path} names the file {name[:128]!r}, expected a path inside the release, of letters, digits, '_', '.' "
            "and '-': this release was not written by Nearcart, do not use it"
        )
    size, sha256 = (entry.get("size_bytes"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
    is_size = isinstance(size, int) and not isinstance(size, bool) and 0 <= size < _LARGEST_FILE
    if not is_size or not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ReleaseCorrupt(f"{path} does not give the size and SHA-256 of {name[:128]!r}: copy the release again")
