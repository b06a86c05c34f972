"""One release: a directory of plain arrays, a FAISS index and a manifest that vouches for them.

`Release` reads one and never changes it. `Draft` writes one beside its final name; engine.repository renames it there.
The layout, the manifest's fields and what each version means stand in docs/release-format.md; a release written by
every format version lies under tests/data and is read by tests/test_release.py for ever.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from engine.errors import PublishFailed, ReleaseCorrupt
from engine.in_use import Hold
from engine.manifest import FORMAT_VERSION, MANIFEST, manifest_checksum, plain_size, read_manifest, reading

INDEX_FILE = "index.faiss"
INDEX_PICTURE = "index.svg"
_PACKAGES = ("nearcart", "faiss-cpu", "numba", "numpy")
_HASHED_BYTES = 1 << 20
"""Read and hashed at a time, without the interpreter's lock, which a thread that verifies so hardly asks for."""


class Release:
    """A release opened for reading: the manifest checked, every file present in its stated size, arrays memory-mapped.

    Opening reads the manifest and file sizes only, whatever the release's size; `verify` reads everything.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._hold: Hold | None = None
        self.manifest = MappingProxyType(read_manifest(directory))
        self.release_id = str(self.manifest["release_id"])
        if directory.name != self.release_id:
            raise ReleaseCorrupt(
                f"{directory} holds release {self.release_id}: a release keeps its name, rename it back"
            )
        for name, entry in self.manifest["files"].items():
            path = directory / name
            with reading(path):
                found = plain_size(directory, name)
            if found != entry["size_bytes"]:
                state = "is missing" if found is None else f"has {found:,} bytes"
                raise ReleaseCorrupt(
                    f"{path} {state}, the manifest says {entry['size_bytes']:,}: copy the release again, or roll back"
                )

    def held(self) -> Release:
        """The same, not to be pruned for as long as this object lives. Raises ReleaseNotFound where it just was."""
        self._hold = self._hold or Hold(self.directory)
        return self

    def verify(self) -> None:
        """Read every file and compare its SHA-256 with the manifest. Raises ReleaseCorrupt.

        Beside answering, call it in a thread that gave way first: engine.priority.gentle_thread.
        """
        for name in self.manifest["files"]:
            self.verified_path(name)

    def verified_path(self, name: str) -> Path:
        """The path of one file, after comparing its SHA-256 with the manifest. Raises ReleaseCorrupt."""
        if name not in self.manifest["files"]:
            raise ReleaseCorrupt(f"{self.directory} has no file {name!r}, which its manifest requires")
        path, expected = self.directory / name, self.manifest["files"][name]["sha256"]
        with reading(path):
            found = _sha256(path)
        if found != expected:
            raise ReleaseCorrupt(
                f"{path} has SHA-256 {found[:12]}..., the manifest says {expected[:12]}...: "
                "the file was changed or damaged after publishing; copy the release again, or roll back"
            )
        return path

    def has(self, name: str) -> bool:
        """Whether the release holds the array `name`."""
        return f"{name}.npy" in self.manifest["files"]

    def array(self, name: str, dtype: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
        """One array, memory-mapped, read-only. Raises ReleaseCorrupt unless of this dtype and shape (None: any)."""
        if not self.has(name):
            raise ReleaseCorrupt(f"{self.directory} has no array {name!r}, which its manifest requires")
        return _read_array(self.directory / f"{name}.npy", dtype, shape)

    def table(self, name: str, n: int, *, n_slots: int | None = None) -> dict[str, NDArray[Any]]:
        """The arrays of a StringTable of n strings, or with n_slots of an IdTable, that lie under `name`."""
        arrays = {"offsets": self.array(f"{name}.offsets", np.int64, (n + 1,))}
        arrays["data"] = self.array(f"{name}.data", np.uint8, (int(arrays["offsets"][-1]),))
        if n_slots is not None:
            arrays["slots"] = self.array(f"{name}.slots", np.int32, (n_slots,))
        return arrays


class Draft:
    """A release being written, in a hidden directory beside its final name; unpublished, it vanishes at the end."""

    def __init__(self, root: Path, release_id: str) -> None:
        self.release_id = release_id
        self.directory = root / f".draft-{release_id}"
        self._files: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Draft:
        with publishing(self.directory):
            self.directory.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def add_array(self, name: str, array: NDArray[Any]) -> None:
        """Write one array as `name`.npy. Raises PublishFailed."""
        self.add_file(f"{name}.npy", lambda path: _write_array(path, array))

    def add_blocks(
        self, name: str, dtype: type[np.generic], shape: tuple[int, ...], blocks: Iterable[NDArray[Any]]
    ) -> None:
        """Write one array of this dtype and shape, whose rows come in blocks. Raises PublishFailed."""

        def write(path: Path) -> None:
            header = {"descr": npy_format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
            with path.open("wb") as file:
                npy_format.write_array_header_1_0(file, header)
                for block in blocks:
                    file.write(np.ascontiguousarray(block, dtype=dtype).data)

        self.add_file(f"{name}.npy", write)

    def add_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the arrays of a table as `name`.<key>.npy."""
        for key, array in arrays.items():
            self.add_array(f"{name}.{key}", array)

    def add_file(self, name: str, write: Callable[[Path], object]) -> None:
        """Let `write` make one file, flush it to the disk and enter its checksum. Raises PublishFailed."""
        path = self.directory / name
        with publishing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
            flush(path)
            self._files[name] = {"size_bytes": path.stat().st_size, "sha256": _sha256(path)}

    def discard(self, name: str) -> None:
        """Take back a file that was added, or all below a directory "NAME/"; nothing where there are none."""
        for each in [each for each in self._files if each.startswith(name)]:
            path = self.directory / each
            with publishing(path):
                path.unlink()
                del self._files[each]
                if path.parent != self.directory and not any(path.parent.iterdir()):
                    path.parent.rmdir()

    def size_bytes(self, *names: str) -> int:
        """Of these files, and of those below these directories, that were added."""
        return sum(each["size_bytes"] for name, each in self._files.items() if name.startswith(names))

    def has(self, name: str) -> bool:
        """Whether the array `name` was added."""
        return f"{name}.npy" in self._files

    def array(self, name: str, dtype: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
        """One array that was added, memory-mapped, as Release.array."""
        return _read_array(self.directory / f"{name}.npy", dtype, shape)

    def verified_path(self, name: str) -> Path:
        """The path of a file that was added: nothing has changed it."""
        return self.directory / name

    def adopt(self, release: Release, name: str) -> None:
        """Take one file of another release over, by hard link where the file system can, after verifying it."""
        source = release.verified_path(name)
        path = self.directory / name
        with publishing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, path)
            except OSError:
                shutil.copyfile(source, path)
                flush(path)
        self._files[name] = dict(release.manifest["files"][name])

    def finish(self, fields: Mapping[str, Any]) -> None:
        """Write the manifest, last of all files, and flush the directories. Raises PublishFailed."""
        manifest = {
            "format_version": FORMAT_VERSION,
            "release_id": self.release_id,
            "program": {package: importlib.metadata.version(package) for package in _PACKAGES},
            **fields,
            "files": dict(sorted(self._files.items())),
        }
        manifest["checksum"] = manifest_checksum(manifest)
        path = self.directory / MANIFEST
        with publishing(path):
            path.write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            flush(path)
            for folder in {path.parent, *(each.parent for each in self.directory.rglob("*"))}:
                flush(folder)


class publishing:  # noqa: N801 - used as a statement, like contextlib.suppress
    """Turns an OSError inside the block into PublishFailed, which says where that leaves the releases."""

    def __init__(
        self,
        path: Path,
        outcome: str = "Nothing was published and CURRENT is unchanged; "
        "free space or choose another --releases directory, and publish again",
    ) -> None:
        self._path = path
        self._outcome = outcome

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise PublishFailed(f"could not write {self._path}: {error}. {self._outcome}") from error


def flush(path: Path) -> None:
    """Flush one file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_array(path: Path, array: NDArray[Any]) -> None:
    """As np.save, which would turn a memory-mapped or read-only array's order and class into surprises."""
    with path.open("wb") as file:
        npy_format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def _read_array(path: Path, dtype: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
    try:
        # asarray drops np.memmap's class, which kernels do not know; the buffer keeps the mapping alive.
        array = np.asarray(npy_format.open_memmap(path, mode="r"))
    except Exception as error:  # NumPy's reader raises all kinds for a damaged header, TokenError among them
        raise ReleaseCorrupt(f"{path} is not a readable array: {error}") from error
    fits = len(array.shape) == len(shape) and all(e is None or f == e for f, e in zip(array.shape, shape, strict=True))
    if array.dtype != np.dtype(dtype) or not fits:
        expected = " x ".join("any" if length is None else f"{length:,}" for length in shape)
        found = " x ".join(f"{length:,}" for length in array.shape)
        raise ReleaseCorrupt(
            f"{path} holds {array.dtype} of {found}, the manifest's sizes say {np.dtype(dtype)} of {expected}"
        )
    return array


def _sha256(path: Path) -> str:
    found, buffer = hashlib.sha256(), memoryview(bytearray(_HASHED_BYTES))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            found.update(buffer[:size])
    return found.hexdigest()
