"""What leaves the program as vectors: turned so that they drift from release to release, written as Parquet.

Inside, vectors stand in the eigenbasis of their Gram matrix, whose axes swap and flip from one training to the next
though hardly a score changes. Scores are inner products, so any rotation gives the same ones, and a release holds one
that takes its item vectors as near to the exported ones of the release before as a rotation can. The server never
reads it. Checked by tests/test_export.py, measured by benchmarks/warm_start.py.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet
from threadpoolctl import threadpool_limits

from engine.errors import UsageError
from engine.ids import IdTable, StringTable
from engine.parts import EXPORT_ROTATION, ITEMS, USERS, DensePart, TableNames
from engine.release import Release
from engine.vector_table import VectorTable
from trainer.parquet_files import ids_of_range, replacing
from trainer.warm_start import Previous

Vectors = NDArray[np.float32]

_log = logging.getLogger("nearcart")

_ALIGNED_ROWS = 1 << 14
"""Rows of each side that the alignment holds in float64 at a time."""
_BATCH_FLOATS = 1 << 23
"""Rows that an export holds at a time, in elements: 32 MiB, which is also a row group of the file."""
_BATCH_ROWS = 1 << 20
"""And never more than these, so that their ids stay within the 2 GiB that offsets of 32 bits reach."""
_COSINES = 100_000
"""Items whose drift is looked at."""
_OUTCOME = "The file of this name, if there was one, is as it was; free space or choose another, and export again"


@dataclass(frozen=True)
class Alignment:
    """An orthogonal matrix, float32 (d, d), and what it achieves: the median cosine of items of both releases."""

    rotation: Vectors
    release_id: str
    """The release whose exported vectors it turns to."""
    n_items: int
    """Items of both releases."""
    median_cosine: float


def align(previous: Previous, item_ids: IdTable, item_vectors: Vectors) -> Alignment | None:
    """The orthogonal R that minimizes |Y R - Z|_F: Y the item vectors, Z yesterday's exported ones, of common items.

    With the singular value decomposition Y'Z = U S V', R = U V' (Schönemann, "A generalized solution of the orthogonal
    Procrustes problem", Psychometrika 1966), in float64. Every item counts as its vectors are long, so that those with
    many users count most. None, with a line in the log, where no item is in both; None where a vector is not finite.
    """
    old_rows = previous.item_ids.rows_of(item_ids.strings)
    rows = np.flatnonzero(old_rows >= 0)
    old_rows = old_rows[rows]
    if not len(rows):
        _log.warning("exported vectors are not aligned to release %s: no item is in both", previous.release_id)
        return None
    product = np.zeros((previous.factors, previous.factors))
    with threadpool_limits(1, "blas"):
        for start in range(0, len(rows), _ALIGNED_ROWS):
            part = slice(start, start + _ALIGNED_ROWS)
            old = previous.item_vectors[old_rows[part]].astype(np.float64)
            product += item_vectors[rows[part]].astype(np.float64).T @ old
        if previous.export_rotation is not None:
            product = product @ previous.export_rotation.astype(np.float64)
        if not np.isfinite(product).all():
            return None
        left, _, right = np.linalg.svd(product)
        rotation = (left @ right).astype(np.float32)
    sample = np.linspace(0, len(rows) - 1, min(len(rows), _COSINES)).astype(np.int64)
    cosine = median_cosine(
        exported(item_vectors[rows[sample]], rotation),
        exported(previous.item_vectors[old_rows[sample]], previous.export_rotation),
    )
    return Alignment(rotation, previous.release_id, len(rows), cosine)


def exported(vectors: Vectors, rotation: Vectors | None) -> Vectors:
    """Vectors as they leave the program."""
    return vectors if rotation is None else vectors @ rotation


def median_cosine(one: Vectors, other: Vectors) -> float:
    """The median, over rows, of the cosine of two tables' rows; rows of zeros aside. NaN where all are."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    kept = lengths > 0
    return float(np.median((one * other).sum(axis=1)[kept] / lengths[kept])) if kept.any() else float("nan")


def check_outputs(*paths: Path | None) -> None:
    """Raises UsageError unless there is a path, all differ, and each can be a new file of a directory."""
    given = [path for path in paths if path is not None]
    if not given:
        raise UsageError("export writes nothing: give --items FILE, --users FILE or both")
    if len({path.resolve() for path in given}) < len(given):
        raise UsageError(f"--items and --users are both {given[0]}: give a file for each")
    for path in given:
        if path.is_dir():
            raise UsageError(f"found the directory {path}, expected the name of a file to write")
        if not path.parent.is_dir():
            raise UsageError(f"found no directory {path.parent} to write {path.name} to: make it, or name another")


def export_items(release: Release, path: Path) -> str:
    """Write `item_id` and `vector` of every item; returns what was written, in words.

    Raises ReleaseError before the file is touched; PublishFailed where it cannot be written, and then leaves it alone.
    """
    part = DensePart.of(release.manifest)
    _verify(release, part, ITEMS)
    return _write(release, path, "item", part.n_items, part.item_vectors(release), part.export_rotation(release))


def export_users(release: Release, path: Path) -> str:
    """Write `user_id` and `vector` of every user, as `export_items` does."""
    part = DensePart.of(release.manifest)
    _verify(release, part, USERS)
    return _write(release, path, "user", part.n_users, part.user_vectors(release), part.export_rotation(release))


def _verify(release: Release, part: DensePart, names: TableNames) -> None:
    for name in names.stored(part.vectors):
        release.verified_path(f"{name}.npy")


def _write(release: Release, path: Path, side: str, n: int, vectors: VectorTable, rotation: Vectors | None) -> str:
    """One Parquet file, a row group a batch, beside its name and then renamed."""
    tables = [f"{side}s/ids.data", f"{side}s/ids.offsets"]
    for name in [*tables, EXPORT_ROTATION] if rotation is not None else tables:
        release.verified_path(f"{name}.npy")
    ids = StringTable.from_arrays(release.table(f"{side}s/ids", n))
    factors = vectors.shape[1]
    schema = pa.schema(
        [
            pa.field(f"{side}_id", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.field("element", pa.float32(), nullable=False), factors), nullable=False),
        ],
        metadata={"nearcart.release_id": release.release_id},
    )
    size = max(1, min(_BATCH_ROWS, _BATCH_FLOATS // factors))
    with replacing(path, _OUTCOME) as beside:
        # Ids and floats hardly repeat: a dictionary would be built and thrown away.
        settings = {"use_dictionary": False, "write_statistics": [f"{side}_id"]}
        with parquet.ParquetWriter(beside, schema, **settings) as writer:
            for start in range(0, n, size):
                stop = min(n, start + size)
                rows = exported(vectors[start:stop], rotation)
                columns = [ids_of_range(ids, start, stop), _lists(rows, schema.field("vector").type)]
                writer.write_batch(pa.record_batch(columns, schema=schema), row_group_size=size)
    return f"{path}: {n:,} {side}s, vectors of {factors}, release {release.release_id}"


def _lists(rows: Vectors, kind: pa.DataType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).reshape(-1)), type=kind)
