"""The best items of every user, as a directory of Parquet files: what `nearcart recommend-all` does.

A file, a part, holds a fixed range of users, and its bytes depend on the job alone, never on threads or interruptions.
It is written beside its name and renamed, so that what is there is whole, and a run begins with what is not there.
Threads take blocks of users in their order; whoever ends the last block of a part writes it, so that at any time few
parts are in memory. Checked by tests/test_recommend_all.py.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from threadpoolctl import threadpool_limits

from engine.ids import StringTable
from engine.manifest import reading
from engine.parts import Sizes
from engine.release import Release, publishing
from trainer.bulk_answers import Block, BulkAnswers
from trainer.errors import OutputMismatch
from trainer.parquet_files import all_ids, ids_of_range, replacing
from trainer.progress import Steps, users_progress
from trainer.threads import Threads

JOB_FILE = "_job.json"
"""What the directory is of. Readers of Parquet directories leave names with an underscore out."""
DONE_FILE = "_SUCCESS"
"""There when all parts are; JSON with their counts."""

_FORMAT = 1
_BLOCK_USERS = 4096
"""Users that a thread takes at a time."""
_PART_USERS = 1 << 16
_PART_ITEMS = 1 << 21
"""Most answered items of a part, whose ids then stay within the 2 GiB that offsets of 32 bits reach."""
_OUTCOME = "The parts that are there are whole; free space, and the same command goes on with the others"
_SOURCES = ("popular", "personal")


@dataclass(frozen=True)
class Job:
    """All that the bytes of the output depend on, in the order in which a difference is told."""

    release_id: str
    release_checksum: str
    limit: int
    repeat: str
    program: str
    users: int
    part_users: int

    @classmethod
    def of(cls, release: Release, limit: int, repeat: str) -> Job:
        """The job of answering all users of a release. Raises ReleaseError."""
        sizes = Sizes.of(release.manifest)
        return cls(
            release_id=release.release_id,
            release_checksum=str(release.manifest["checksum"]),
            limit=limit,
            repeat=repeat,
            program=importlib.metadata.version("nearcart"),
            users=sizes.n_users,
            part_users=min(_PART_USERS, _PART_ITEMS // max(1, min(limit, sizes.n_items))),
        )

    @property
    def n_parts(self) -> int:
        """How many files there are at the end. One at least, since it says what the columns are."""
        return max(1, -(-self.users // self.part_users))

    def range_of(self, part: int) -> tuple[int, int]:
        """The users of a part: the first row and the one behind the last."""
        return part * self.part_users, min(self.users, (part + 1) * self.part_users)


def recommend_all(
    release: Release, output: Path, *, limit: int, repeat: str, threads: int = 0, quiet: bool = True
) -> str:
    """Write the parts that are not there yet; returns what there is then, in words.

    repeat: "never" leaves out what a user has, "mix" does not. Raises ReleaseError, and OutputMismatch where the
    directory is not of this job.
    """
    step = Steps(quiet=quiet)
    job = Job.of(release, limit, repeat)
    is_begun = _is_begun(output, job)
    if is_begun and (output / DONE_FILE).exists():
        return f"{output} was complete before: {_told(job, _read_json(output / DONE_FILE))}"
    step(f"verifying release {release.release_id}")
    release.verify()  # a flipped bit would stay in what is written
    left = [part for part in range(job.n_parts) if not _is_whole(output / part_name(part), job, part)]
    run = _Run(release, output, job, left)
    if not is_begun:
        _write_json(output / JOB_FILE, _described(job))
    there = f"; {job.n_parts - len(left):,} of {job.n_parts:,} parts are there" if len(left) < job.n_parts else ""
    step(f"answering {run.n_users:,} users{there}")
    try:
        with threadpool_limits(1, "blas"), Threads(threads) as pool, users_progress(run.n_users, quiet=quiet) as show:
            pool.each(run.work, run.n_blocks, lambda share: show(run.users_done))
    except (KeyboardInterrupt, SystemExit):
        step("interrupted; the same command goes on from here")
        raise
    counts = _counts(output, job)
    _write_json(output / DONE_FILE, counts)
    step("done")
    return f"{output}: {_told(job, counts)}"


def part_name(part: int) -> str:
    """The name of a part's file."""
    return f"part-{part:05}.parquet"


class _Run:
    """The parts that are left, as numbered blocks of users that threads share."""

    def __init__(self, release: Release, output: Path, job: Job, parts: Sequence[int]) -> None:
        self._output, self._job = output, job
        self._answers = BulkAnswers(release, job.limit, repeats=job.repeat == "mix")
        self._user_ids = StringTable.from_arrays(release.table("users/ids", job.users))
        n_items = Sizes.of(release.manifest).n_items
        self._item_ids = all_ids(StringTable.from_arrays(release.table("items/ids", n_items)))
        # Every part but the last has as many blocks; a part without users has one.
        self._starts = {
            part: range(job.range_of(part)[0], max(1, job.range_of(part)[1]), _BLOCK_USERS) for part in parts
        }
        self._blocks = [(part, start) for part, starts in self._starts.items() for start in starts]
        self._ended: dict[int, dict[int, Block]] = {part: {} for part in parts}
        self._lock = threading.Lock()
        self.n_blocks = len(self._blocks)
        self.n_users = sum(stop - start for start, stop in map(job.range_of, parts))
        self.users_done = 0

    def work(self, number: int) -> None:
        """Answer the users of a block; write the part if that was its last."""
        part, start = self._blocks[number]
        stop = min(start + _BLOCK_USERS, self._job.range_of(part)[1])
        block = self._answers.of(start, stop)
        with self._lock:
            self.users_done += stop - start
            self._ended[part][start] = block
            is_whole = len(self._ended[part]) == len(self._starts[part])
        if is_whole:
            ended = self._ended.pop(part)
            self._write(part, [ended[each] for each in self._starts[part]])

    def _write(self, part: int, blocks: Sequence[Block]) -> None:
        counts, rows, scores, personal = (
            np.concatenate([getattr(block, field.name) for block in blocks]) for field in dataclasses.fields(Block)
        )
        schema = _schema(self._job, n_popular=int(np.count_nonzero(~personal)), n_items=len(rows))
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        item_ids = self._item_ids.take(pa.array(rows)).cast(pa.string())
        columns = [
            ids_of_range(self._user_ids, *self._job.range_of(part)),
            pa.ListArray.from_arrays(offsets, item_ids, type=schema.field("item_ids").type),
            pa.ListArray.from_arrays(offsets, pa.array(scores), type=schema.field("scores").type),
            pa.array(_SOURCES).take(pa.array(personal.astype(np.int8))),
        ]
        with replacing(self._output / part_name(part), _OUTCOME) as beside:
            # Neither users' ids nor scores repeat: a dictionary would be built and thrown away.
            settings = {"use_dictionary": ["item_ids.list.element", "source"], "write_statistics": ["user_id"]}
            parquet.write_table(pa.Table.from_arrays(columns, schema=schema), beside, **settings)


def _schema(job: Job, *, n_popular: int, n_items: int) -> pa.Schema:
    """The columns of a part, and in its metadata what is counted at the end."""
    item_ids = pa.list_(pa.field("element", pa.string(), nullable=False))
    scores = pa.list_(pa.field("element", pa.float32(), nullable=False))
    fields = {"user_id": pa.string(), "item_ids": item_ids, "scores": scores, "source": pa.string()}
    counts = {"nearcart.popular_users": str(n_popular), "nearcart.items": str(n_items)}
    return pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in fields.items()],
        metadata={"nearcart.release_id": job.release_id, **counts},
    )


def _is_begun(output: Path, job: Job) -> bool:
    """Whether the directory is of this job, or else empty; made where there is none. Raises OutputMismatch."""
    with publishing(output, "Name a directory that you may write to"):
        output.mkdir(parents=True, exist_ok=True)
        others = sorted(each.name for each in output.iterdir() if not each.name.startswith("."))
    if not others:
        return False
    if JOB_FILE not in others:
        raise OutputMismatch(
            f"{output} holds {others[0]!r} but no {JOB_FILE}: expected a new directory, an empty one, or one that this "
            "command began; name another --output"
        )
    found = _read_json(output / JOB_FILE)
    for name, expected in _described(job).items():
        if found.get(name) != expected:
            hint = f", or --release {found.get(name)} to go on there" if name == "release_id" else ""
            raise OutputMismatch(
                f"{output} is of another job: there {name.replace('_', ' ')} {found.get(name)}, here {expected}; name "
                f"another --output{hint}"
            )
    return True


def _described(job: Job) -> dict[str, Any]:
    return {"format": _FORMAT, **dataclasses.asdict(job)}


def _is_whole(path: Path, job: Job, part: int) -> bool:
    """Whether a part is there, as its last bytes, which are written last, say. Another is written over it if not."""
    start, stop = job.range_of(part)
    try:
        return bool(parquet.read_metadata(path).num_rows == stop - start)
    except (OSError, pa.ArrowException):
        return False


def _counts(output: Path, job: Job) -> dict[str, int]:
    """What all parts hold together."""
    footers = [parquet.read_metadata(output / part_name(part)).metadata for part in range(job.n_parts)]
    return {
        "users": job.users,
        "popular_users": sum(int(each[b"nearcart.popular_users"]) for each in footers),
        "items": sum(int(each[b"nearcart.items"]) for each in footers),
        "parts": job.n_parts,
    }


def _told(job: Job, counts: Mapping[str, Any]) -> str:
    return (
        f"{counts['users']:,} users, {counts['popular_users']:,} of them with what is popular, {counts['items']:,} "
        f"items, release {job.release_id}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with reading(path):
            found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputMismatch(f"{path} is not JSON ({error}): name another --output, or empty this one") from error
    if not isinstance(found, dict):
        raise OutputMismatch(f"{path} is not what this command writes: name another --output, or empty this one")
    return found


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path, _OUTCOME) as beside:
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
