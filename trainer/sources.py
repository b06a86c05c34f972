"""Which files the sources name, what form each has, and whether its compressed stream is whole.

Sources are files, globs and directories. The form is told by the ending; for endings that say nothing, by content. What
stands inside a file is trainer.layouts' business. tests/test_events.py holds every form and every way to be unreadable.
"""

from __future__ import annotations

import enum
import glob
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from trainer.errors import EventsUnreadable

_BLOCK_BYTES = 1 << 20
_MAX_FIRST_LINE_BYTES = 1 << 24


class Form(enum.Enum):
    """How a file is written."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"
    JSON = "json"
    """One JSON value a line, or one array of them: DuckDB looks."""
    TEXT = "text"
    """An ending that says nothing: CSV, ratings or lists by the first line (trainer.layouts)."""


FORM_BY_ENDING = {
    ".parquet": Form.PARQUET,
    ".pq": Form.PARQUET,
    ".csv": Form.CSV,
    ".tsv": Form.TEXT,
    ".jsonl": Form.JSONL,
    ".ndjson": Form.JSONL,
    ".json": Form.JSON,
}
COMPRESSION_BY_ENDING = {".gz": "gzip", ".zst": "zstd"}
READABLE = "Parquet (.parquet, .pq), or CSV (.csv, .tsv) or JSON lines (.jsonl, .ndjson, .json), perhaps .gz or .zst"


@dataclass(frozen=True)
class SourceFile:
    """One file: where, in which form, and how compressed ("gzip", "zstd" or None)."""

    path: Path
    form: Form
    compression: str | None

    @classmethod
    def at(cls, path: Path) -> SourceFile:
        """Recognise the form of an existing file. Raises EventsUnreadable for empty files and unknown binary forms."""
        ending = path.suffix.lower()
        compression = COMPRESSION_BY_ENDING.get(ending)
        if compression:
            ending = path.with_suffix("").suffix.lower()
        form = FORM_BY_ENDING.get(ending, Form.TEXT)
        if path.stat().st_size == 0:
            raise EventsUnreadable(f"{path} is empty (0 bytes); expected {READABLE}")
        if form is Form.TEXT and not compression:
            with path.open("rb") as file:
                start = file.read(4096)
            if start.startswith(b"PAR1"):
                form = Form.PARQUET
            elif b"\0" in start:
                raise EventsUnreadable(f"{path} is neither text nor Parquet; expected {READABLE}")
        return cls(path, form, compression)

    def first_line(self) -> str:
        """The first line without its end and without a byte order mark."""
        data = bytearray()
        with _unreadable_when_broken(self), pa.input_stream(str(self.path), compression=self.compression) as stream:
            while b"\n" not in data and len(data) < _MAX_FIRST_LINE_BYTES and (block := stream.read(1 << 16)):
                data += block
        try:
            return bytes(data).split(b"\n", 1)[0].decode("utf-8-sig").rstrip("\r")
        except UnicodeDecodeError as error:
            raise EventsUnreadable(f"{self.path}: the first line is not UTF-8 ({error.reason}); write it so") from None

    def check_stream(self) -> None:
        """Decompress to the end and forget: DuckDB takes the cut of a .zst for its end and ignores a .gz's checksum."""
        if self.compression is None:
            return
        n_bytes = 0
        with _unreadable_when_broken(self), pa.input_stream(str(self.path), compression=self.compression) as stream:
            while block := stream.read(_BLOCK_BYTES):
                n_bytes += len(block)
        if n_bytes == 0:
            raise EventsUnreadable(f"{self.path} holds no bytes once decompressed; expected {READABLE}")


def find_files(sources: Sequence[str], on_file: Callable[[SourceFile], None] | None = None) -> list[SourceFile]:
    """The files that `sources` name, each once, in a fixed order; compressed ones are checked to their end.

    Raises EventsUnreadable for a missing or empty file, a glob or directory without files, and a broken stream.
    """
    if not sources:
        raise EventsUnreadable("no events were named; expected files, globs or directories")
    paths: dict[Path, Path] = {}
    for source in sources:
        for path in _expand(str(source)):
            paths.setdefault(path.resolve(), path)
    files = [SourceFile.at(path) for path in paths.values()]
    for file in files:
        if on_file:
            on_file(file)
        file.check_stream()
    return files


def _expand(source: str) -> Iterable[Path]:
    path = Path(source)
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            found = sorted(each for each in path.rglob("*") if _is_data(each, path))
            if not found:
                raise EventsUnreadable(f"the directory {path} holds no events; expected files in {READABLE}")
            return found
        if path.exists():
            raise EventsUnreadable(f"{path} is neither a file nor a directory; no pipes, files are read twice")
    except OSError as error:
        raise EventsUnreadable(f"{source} cannot be read: {error.strerror}") from None
    if glob.has_magic(source):
        matches = glob.glob(source, recursive=True)  # noqa: PTH207 - Path.glob refuses absolute patterns
        found = sorted(Path(each) for each in matches if Path(each).is_file())
        if not found:
            raise EventsUnreadable(f"no file matches {source}; is the path right, and quoted against the shell?")
        return found
    raise EventsUnreadable(f"{source} does not exist; expected a file, a glob or a directory")


def _is_data(path: Path, root: Path) -> bool:
    """In a directory only endings that say what they are count, so that a README beside the data is not read too."""
    if any(part.startswith((".", "_")) for part in path.relative_to(root).parts):
        return False
    ending = path.suffix.lower()
    if ending in COMPRESSION_BY_ENDING:
        ending = path.with_suffix("").suffix.lower()
    return ending in FORM_BY_ENDING and path.is_file()


class _unreadable_when_broken:  # noqa: N801 - reads as a phrase in the with statement
    """Turns what pyarrow and the system say about a broken or forbidden file into EventsUnreadable."""

    def __init__(self, file: SourceFile) -> None:
        self._file = file

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | pa.ArrowException):
            raise EventsUnreadable(
                f"{self._file.path} is cut or corrupt: {str(error).rstrip('.')}; write or copy the file again"
            ) from None
