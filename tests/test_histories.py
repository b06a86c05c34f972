"""Users' histories in a release: what is written is read, with ages and without, and what is damaged is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.errors import ReleaseCorrupt
from engine.histories import NO_EVIDENCE, Histories
from engine.release import Release
from engine.repository import Repository

N_ITEMS = 9
MADE = Histories(
    indptr=np.array([0, 3, 3, 5], dtype=np.int64),
    rows=np.array([1, 4, 8, 0, 4], dtype=np.int32),
    values=np.array([1.0, -0.5, 2.0, 1.0, 0.25], dtype=np.float32),
    ages=np.array([2, 0, 65_535, 1, 1], dtype=np.uint16),
)


@pytest.fixture
def stored(tmp_path):
    """Publishes histories with a manifest of these sizes, and opens the release."""
    repository = Repository(tmp_path)

    def store(histories, **sizes):
        with repository.draft() as draft:
            histories.store(draft)
            told = {"users": 3, "items": N_ITEMS, "entries": 5, **sizes}
            fields = {"sizes": told, "parts": [], "index": {}, "attributes": []}
            return Release(repository.path(repository.publish(draft, fields, promote=False)))

    return store


def listed(evidence):
    """Rows, weights and ages as plain values, after their types were looked at."""
    assert (evidence.rows.dtype, evidence.weights.dtype, evidence.ages.dtype) == (np.int32, np.float32, np.int32)
    return [array.tolist() for array in (evidence.rows, evidence.weights, evidence.ages)]


def test_histories_are_read_as_they_were_written(stored):
    release = stored(MADE)
    read = Histories.read(release)
    for mine, theirs in zip(vars(read).values(), vars(MADE).values(), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    assert listed(read.of(0, N_ITEMS)) == [[1, 4, 8], [1.0, -0.5, 2.0], [2, 0, 65_535]]
    assert listed(read.of(1, N_ITEMS)) == [[], [], []]
    assert listed(read.of(2, N_ITEMS)) == [[0, 4], [1.0, 0.25], [1, 1]]


def test_without_ages_none_are_written_and_everything_is_the_newest(stored):
    release = stored(replace(MADE, ages=None))
    assert set(release.manifest["files"]) == {f"users/history.{name}.npy" for name in ("indptr", "indices", "values")}
    read = Histories.read(release)
    assert read.ages is None
    assert listed(read.of(0, N_ITEMS)) == [[1, 4, 8], [1.0, -0.5, 2.0], [0, 0, 0]]


def test_nobody_has_no_history():
    assert MADE.of(-1, N_ITEMS) is NO_EVIDENCE
    assert listed(NO_EVIDENCE) == [[], [], []]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"entries": 4}, "the users' histories end at 5, the manifest says 4 entries: copy the release again"),
        ({"users": 4}, r"history\.indptr"),
        ({"users": None}, "lacks a field"),
    ],
)
def test_histories_of_other_sizes_than_the_manifests_are_refused(stored, sizes, message):
    release = stored(MADE, **sizes)
    with pytest.raises(ReleaseCorrupt, match=message):
        Histories.read(release)


@pytest.mark.parametrize(
    "damaged",
    [
        replace(MADE, rows=MADE.rows[:-1]),
        replace(MADE, values=MADE.values.astype(np.float64)),
        replace(MADE, ages=MADE.ages[:-1]),
        replace(MADE, ages=MADE.ages.astype(np.int64)),
    ],
    ids=["rows too few", "values too wide", "ages too few", "ages too wide"],
)
def test_arrays_that_do_not_fit_each_other_are_refused(stored, damaged):
    release = stored(damaged)
    with pytest.raises(ReleaseCorrupt, match=r"users/history\.(indices|values|ages)"):
        Histories.read(release)


@pytest.mark.parametrize("row", [-1, N_ITEMS])
def test_rows_that_are_no_items_are_refused_when_they_are_asked_for(row):
    damaged = replace(MADE, rows=np.array([1, 4, row, 0, 4], dtype=np.int32))
    with pytest.raises(ReleaseCorrupt, match="names item rows outside the 9 of the release"):
        damaged.of(0, N_ITEMS)
    assert listed(damaged.of(2, N_ITEMS))[0] == [0, 4]
