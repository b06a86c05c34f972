"""Exported vectors: turned by the best rotation there is, and written so that inner products are the scores."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from small_release import GOLDEN_ID, publish, small_shop

from engine.calibration import rebuild_index
from engine.cli import main
from engine.errors import PublishFailed, ReleaseCorrupt, UsageError
from engine.ids import IdTable
from engine.parts import EXPORT_ROTATION, ITEMS
from engine.plan import IndexPlan
from engine.queries import Repeat, Source, UserQuery
from engine.release import Draft, Release
from engine.repository import Repository
from engine.retrieval import Snapshot
from trainer import export
from trainer.export import align, check_outputs, export_items, export_users, exported, median_cosine
from trainer.warm_start import Previous

GOLDEN = Path(__file__).parent / "data" / "golden_v1"
ROTATED_ID = "20260102T000000.000Z-rotated"
KILLED = """
import os, signal, sys
from pathlib import Path
from pyarrow import parquet
from engine.release import Release
from engine.repository import Repository
from trainer.export import export_items
parquet.ParquetWriter.write_batch = lambda *arguments, **others: os.kill(os.getpid(), signal.SIGKILL)
export_items(Release(Repository(Path(sys.argv[1])).current_path()), Path(sys.argv[2]))
"""


def orthogonal(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


class RotatedDraft(Draft):
    """A draft of the small shop that has an export rotation."""

    def finish(self, fields):
        self.add_array(EXPORT_ROTATION, orthogonal(8).astype(np.float32))
        super().finish(fields)


@pytest.fixture(scope="module")
def rotated_repository(tmp_path_factory):
    """The small release with an export rotation, live. Shared: read only."""
    repository = Repository(tmp_path_factory.mktemp("rotated"))
    publish(repository, small_shop(), draft=RotatedDraft(repository.root, ROTATED_ID))
    return repository


def previous_of(item_vectors, ids=None, rotation=None):
    ids = [f"i{row}" for row in range(len(item_vectors))] if ids is None else ids
    return Previous("yesterday", IdTable.of(ids), item_vectors.astype(np.float32), rotation)


def made_vectors(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def ids_of(n):
    return IdTable.of([f"i{row}" for row in range(n)])


def read(path):
    """Ids and vectors of an exported file."""
    table = parquet.read_table(path)
    return table.column(0).to_pylist(), np.array(table.column("vector").to_pylist(), dtype=np.float32)


# The rotation.


def test_vectors_that_were_only_turned_are_turned_back():
    items, turn = made_vectors(50, 6), orthogonal(6, 3)
    alignment = align(previous_of(items @ turn), ids_of(50), items)
    np.testing.assert_allclose(alignment.rotation, turn, atol=1e-6)
    assert alignment.median_cosine == pytest.approx(1, abs=1e-6)
    assert (alignment.release_id, alignment.n_items) == ("yesterday", 50)


def test_the_rotation_is_orthogonal_even_where_fewer_items_are_common_than_there_are_factors():
    items = made_vectors(40, 12)
    for n_common in (40, 12, 5, 1):
        ids = [f"i{row}" if row < n_common else f"gone {row}" for row in range(40)]
        alignment = align(previous_of(made_vectors(40, 12, 1), ids), ids_of(40), items)
        np.testing.assert_allclose(alignment.rotation.T @ alignment.rotation, np.eye(12), atol=1e-5)
        assert alignment.n_items == n_common


def test_no_other_rotation_brings_the_vectors_nearer():
    items, old = made_vectors(60, 5), made_vectors(60, 5, 1)
    best = align(previous_of(old), ids_of(60), items).rotation
    distance = np.linalg.norm(items @ best - old)
    for seed in range(200):
        nearby = np.linalg.qr(best + np.random.default_rng(seed).normal(size=(5, 5)) * 0.02 * (seed % 7))[0]
        nearby *= np.sign(np.diag(nearby.T @ best))
        assert np.linalg.norm(items @ nearby - old) >= distance - 1e-5
        assert np.linalg.norm(items @ orthogonal(5, seed) - old) >= distance - 1e-5


def test_items_are_matched_by_id_whatever_their_rows():
    items, turn = made_vectors(30, 4), orthogonal(4, 1)
    order = np.random.default_rng(5).permutation(30)
    old = previous_of((items @ turn)[order], [f"i{row}" for row in order])
    np.testing.assert_allclose(align(old, ids_of(30), items).rotation, turn, atol=1e-6)


def test_vectors_are_turned_to_what_was_exported_and_not_to_what_was_inside():
    items, inside, outside = made_vectors(30, 4), orthogonal(4, 1), orthogonal(4, 2)
    old = previous_of(items @ inside, rotation=outside.astype(np.float32))
    np.testing.assert_allclose(align(old, ids_of(30), items).rotation, inside @ outside, atol=1e-6)


def test_the_sums_do_not_depend_on_how_many_rows_are_taken_at_a_time(monkeypatch):
    items, old = made_vectors(100, 4), previous_of(made_vectors(100, 4, 1))
    whole = align(old, ids_of(100), items).rotation
    monkeypatch.setattr(export, "_ALIGNED_ROWS", 7)
    np.testing.assert_allclose(align(old, ids_of(100), items).rotation, whole, atol=1e-6)


def test_without_anything_to_turn_to_there_is_no_rotation():
    items = made_vectors(10, 3)
    assert align(previous_of(items, [f"gone {row}" for row in range(10)]), ids_of(10), items) is None
    assert align(previous_of(np.full((10, 3), np.nan)), ids_of(10), items) is None


def test_the_median_cosine_leaves_rows_of_zeros_aside():
    one = np.array([[1, 0], [0, 0], [0, 2]], dtype=np.float32)
    assert median_cosine(one, np.array([[3, 0], [1, 1], [0, 1]], dtype=np.float32)) == 1
    assert np.isnan(median_cosine(one[1:2], one[1:2]))


# Files.


def test_an_items_file_has_ids_and_vectors_of_fixed_length(small_repository, shop, tmp_path):
    export_items(Release(small_repository.current_path()), tmp_path / "items.parquet")
    schema = parquet.read_schema(tmp_path / "items.parquet")
    assert schema.names == ["item_id", "vector"]
    assert schema.field("item_id").type == pa.string()
    assert schema.field("vector").type.list_size == 8
    assert schema.field("vector").type.value_type == pa.float32()
    assert schema.metadata[b"nearcart.release_id"].decode() == small_repository.current()
    ids, found = read(tmp_path / "items.parquet")
    assert ids == shop.item_ids
    np.testing.assert_array_equal(found, shop.item_vectors)


def test_other_readers_of_parquet_understand_the_file(small_repository, tmp_path):
    export_items(Release(small_repository.current_path()), tmp_path / "items.parquet")
    query = f"SELECT count(*), min(len(vector)), max(len(vector)) FROM '{tmp_path / 'items.parquet'}'"
    assert duckdb.sql(query).fetchall() == [(60, 8, 8)]


def test_inner_products_of_exported_vectors_are_the_scores_of_answers(rotated_repository, tmp_path):
    release = Release(rotated_repository.current_path())
    export_items(release, tmp_path / "items.parquet")
    export_users(release, tmp_path / "users.parquet")
    item_ids, items = read(tmp_path / "items.parquet")
    user_ids, users = read(tmp_path / "users.parquet")
    snapshot = Snapshot.open(rotated_repository.current_path())
    for user_id, vector in zip(user_ids, users, strict=True):
        answer = snapshot.recommend_for_users([UserQuery(user_id, 10, repeat=Repeat.MIX)])[0]
        assert (answer.source is Source.PERSONAL) == vector.any()  # who only dislikes gets what is popular
        if vector.any():
            scores = dict(zip(item_ids, (items @ vector).tolist(), strict=True))
            np.testing.assert_allclose([scores[each] for each in answer.item_ids], answer.scores, rtol=1e-4, atol=1e-6)


def test_the_server_answers_the_same_with_a_rotation_and_without(snapshot, rotated_repository):
    rotated = Snapshot.open(rotated_repository.current_path())
    for query in (UserQuery("u1", 20), UserQuery("u7", 20)):
        with_it, without = (each.recommend_for_users([query])[0] for each in (rotated, snapshot))
        assert with_it.item_ids == without.item_ids
        np.testing.assert_array_equal(with_it.scores, without.scores)


def test_a_release_from_before_there_were_rotations_is_exported_as_it_is(tmp_path):
    release = Release(GOLDEN / GOLDEN_ID)
    assert not release.has(EXPORT_ROTATION)
    export_users(release, tmp_path / "users.parquet")
    export_items(release, tmp_path / "items.parquet")
    user_ids, _ = read(tmp_path / "users.parquet")
    item_ids, items = read(tmp_path / "items.parquet")
    assert user_ids[:3] == ["ann", "борис", "陳"]
    assert {"чайник", "café ☕", "0123"} < set(item_ids)
    np.testing.assert_array_equal(items, release.array(ITEMS.codes, np.float32, (16, 3)))


def test_a_file_in_many_batches_holds_what_one_in_a_single_batch_does(rotated_repository, tmp_path, monkeypatch):
    release = Release(rotated_repository.current_path())
    export_users(release, tmp_path / "whole.parquet")
    monkeypatch.setattr(export, "_BATCH_FLOATS", 7 * 8)
    export_users(release, tmp_path / "parts.parquet")
    assert parquet.ParquetFile(tmp_path / "whole.parquet").num_row_groups == 1
    assert parquet.ParquetFile(tmp_path / "parts.parquet").num_row_groups == 6
    whole, parts = read(tmp_path / "whole.parquet"), read(tmp_path / "parts.parquet")
    assert whole[0] == parts[0]
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-6, atol=1e-7)


def test_a_rebuilt_index_keeps_the_rotation(rotated_repository, tmp_path):
    repository = Repository(shutil.copytree(rotated_repository.root, tmp_path / "releases"))
    new_id, _ = rebuild_index(repository, ROTATED_ID, IndexPlan("HNSW16"), 0.0, promote=False)
    for release_id in (ROTATED_ID, new_id):
        export_items(Release(repository.path(release_id)), tmp_path / f"{release_id}.parquet")
    np.testing.assert_array_equal(read(tmp_path / f"{new_id}.parquet")[1], read(tmp_path / f"{ROTATED_ID}.parquet")[1])


# The command, and what can go wrong.


def test_the_command_writes_both_files_and_a_line_for_each(rotated_repository, tmp_path, capsys):
    files = ["--items", str(tmp_path / "items.parquet"), "--users", str(tmp_path / "users.parquet")]
    assert main(["export", "--releases", str(rotated_repository.root), *files]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if ROTATED_ID in line]
    assert lines == [
        f"{tmp_path / 'items.parquet'}: 60 items, vectors of 8, release {ROTATED_ID}",
        f"{tmp_path / 'users.parquet'}: 40 users, vectors of 8, release {ROTATED_ID}",
    ]
    release = Release(rotated_repository.current_path())
    turned = exported(release.array(ITEMS.codes, np.float32, (60, 8)), orthogonal(8).astype(np.float32))
    np.testing.assert_allclose(read(tmp_path / "items.parquet")[1], turned, rtol=1e-6)


def test_an_export_of_nothing_is_refused(small_repository, capsys):
    assert main(["export", "--releases", str(small_repository.root)]) == 2
    assert "give --items FILE, --users FILE or both" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("items", "users", "message"),
    [("same", "same", "a file for each"), ("nowhere/items", None, "found no directory"), (".", None, "the directory")],
)
def test_files_that_cannot_be_are_refused_before_anything_is_read(items, users, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        check_outputs(*(None if name is None else tmp_path / name for name in (items, users)))


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(small_repository, tmp_path, monkeypatch):
    (tmp_path / "items.parquet").write_text("yesterday's")

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet.ParquetWriter, "write_batch", fail)
    with pytest.raises(PublishFailed, match="is as it was; free space"):
        export_items(Release(small_repository.current_path()), tmp_path / "items.parquet")
    assert (tmp_path / "items.parquet").read_text() == "yesterday's"
    assert [each.name for each in tmp_path.iterdir()] == ["items.parquet"]


def test_what_a_killed_export_was_writing_does_not_stay(small_repository, tmp_path):
    command = [sys.executable, "-c", KILLED, small_repository.root, tmp_path / "items.parquet"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert len(list(tmp_path.iterdir())) == 1
    export_items(Release(small_repository.current_path()), tmp_path / "items.parquet")
    assert [each.name for each in tmp_path.iterdir()] == ["items.parquet"]


@pytest.mark.parametrize("name", [ITEMS.codes, EXPORT_ROTATION, "items/ids.data"])
def test_damaged_vectors_do_not_leave_the_program(rotated_repository, name, tmp_path):
    repository = Repository(shutil.copytree(rotated_repository.root, tmp_path / "releases"))
    path = repository.current_path() / f"{name}.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(ReleaseCorrupt, match="changed or damaged"):
        export_items(Release(repository.current_path()), tmp_path / "items.parquet")
    assert not (tmp_path / "items.parquet").exists()
