"""A training that starts from yesterday's release: ids mapped, few epochs, exported vectors that hardly move."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import logging
import shutil

import numpy as np
import pytest
from made_interactions import interactions_of, random_matrix
from small_release import publish, small_shop

from benchmarks import warm_start as benchmark
from engine.cli import main
from engine.errors import ReleaseCorrupt, ReleaseNotFound, UsageError
from engine.ids import IdTable
from engine.parts import EXPORT_ROTATION, ITEMS, DensePart
from engine.release import Release
from engine.repository import Repository
from trainer import early_stopping, warm_start
from trainer.als import train
from trainer.export import exported, median_cosine
from trainer.options import AlsOptions
from trainer.warm_start import (
    Previous,
    initial_items,
    live_release,
    new_entries,
    read_histories,
    read_previous,
    release_to_start_from,
)

OPTIONS = AlsOptions(factors=6, epochs=12, threads=1, unobserved_weight=0.1)
COMMAND = ["--factors", "6", "--threads", "1", "--quiet"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


def previous_of(interactions, embeddings):
    return Previous("yesterday", interactions.item_ids, embeddings.item_vectors, None)


# Where training starts.


def test_items_start_where_yesterday_left_them_whatever_their_rows():
    vectors = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    previous = Previous("yesterday", IdTable.of(["a", "b", "gone", "c"]), vectors, None)
    start = initial_items(previous, IdTable.of(["c", "new", "a", "b"]), OPTIONS)
    np.testing.assert_array_equal(start[[0, 2, 3]], vectors[[3, 0, 1]])
    assert start.dtype == np.float32


def test_items_without_a_vector_of_yesterday_start_as_small_as_in_a_cold_training():
    vectors = np.ones((400, 6), dtype=np.float32)
    vectors[7] = 0
    previous = Previous("yesterday", IdTable.of([f"i{row}" for row in range(400)]), vectors, None)
    start = initial_items(previous, IdTable.of([f"n{row}" for row in range(399)] + ["i7"]), OPTIONS)
    assert start.any(axis=1).all()
    assert start.std() == pytest.approx(OPTIONS.init_scale / np.sqrt(6), rel=0.1)
    np.testing.assert_array_equal(start, initial_items(previous, IdTable.of([f"n{r}" for r in range(400)]), OPTIONS))


def test_one_epoch_from_yesterdays_vectors_is_worth_many_from_random_ones():
    matrix = random_matrix(60, 40, seed=1)
    yesterday = interactions_of(matrix)
    previous = previous_of(yesterday, train(yesterday, OPTIONS))
    matrix[np.random.default_rng(2).random(matrix.shape) < 0.02] = 1
    today, one = interactions_of(matrix), AlsOptions(factors=6, epochs=1, threads=1, unobserved_weight=0.1)
    cold = train(today, OPTIONS).losses
    warm = train(today, one, initial_items=initial_items(previous, today.item_ids, one)).losses
    assert warm[0] < cold[3] < cold[0]


def test_new_items_that_only_new_users_have_are_learned_too():
    known = random_matrix(30, 12, seed=3)
    yesterday = interactions_of(known)
    matrix = np.zeros((40, 16))
    matrix[:30, :12] = known
    matrix[30:, 12:] = random_matrix(10, 4, seed=4, density=0.9)
    matrix[30:, 15] = 1
    today = interactions_of(matrix)
    start = initial_items(previous_of(yesterday, train(yesterday, OPTIONS)), today.item_ids, OPTIONS)
    learned = train(today, OPTIONS, initial_items=start)
    new = np.flatnonzero(matrix[30:].any(axis=0))
    assert np.linalg.norm(learned.item_vectors[new], axis=1).min() > 0.1
    assert learned.losses[-1] < 1.02 * train(today, OPTIONS).losses[-1]
    # What zeros in their place would do, and why they are not zeros:
    start[new] = 0
    assert not train(today, OPTIONS, initial_items=start).item_vectors[new].any()


# Which release it is.


def test_a_release_hands_on_ids_and_vectors_of_its_items(small_repository, shop):
    previous = read_previous(Release(small_repository.current_path()))
    assert previous.item_ids.take(np.arange(60)) == shop.item_ids
    np.testing.assert_array_equal(previous.item_vectors, shop.item_vectors)
    assert previous.export_rotation is None
    assert previous.factors == 8


def test_live_means_the_live_release_and_an_id_means_its_own(repository):
    first = repository.current()
    second = publish(repository, small_shop(seed=5), promote=False)
    assert release_to_start_from(repository, "live", 8).release_id == first
    assert release_to_start_from(repository, second, 8).release_id == second
    assert release_to_start_from(repository, None, 8) is None


def test_the_first_night_has_nothing_to_start_from_and_says_so(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "nearcart"):
        assert release_to_start_from(Repository(tmp_path / "releases"), "live", 8) is None
    assert "nothing is live in" in caplog.text
    assert live_release(Repository(tmp_path / "releases"), 8) is None


def test_a_release_that_is_named_must_be_there(small_repository):
    with pytest.raises(ReleaseNotFound, match="has no release 'yesterday'"):
        release_to_start_from(small_repository, "yesterday", 8)


def test_vectors_of_another_length_are_refused_with_what_to_do(small_repository):
    with pytest.raises(UsageError, match=r"found 8 factors in release \S+, expected 6: give --factors 8, or train"):
        release_to_start_from(small_repository, "live", 6)


def test_a_damaged_release_is_nothing_to_start_from_and_no_reason_to_fail_in_the_end(repository, caplog):
    flip(repository.current_path() / f"{ITEMS.codes}.npy")
    with pytest.raises(ReleaseCorrupt, match="changed or damaged"):
        release_to_start_from(repository, "live", 8)
    assert live_release(repository, 8) is None
    assert "exported vectors are not aligned to the live release" in caplog.text


def test_a_cold_training_with_other_factors_is_not_aligned(small_repository, caplog):
    assert live_release(small_repository, 6) is None
    assert "it has 8 factors, this training 6" in caplog.text


# What yesterday's vectors have seen.


@pytest.mark.parametrize("compared_users", [3, 1 << 16])
def test_entries_are_new_by_the_ids_of_user_and_item(repository, shop, monkeypatch, compared_users):
    monkeypatch.setattr(warm_start, "_COMPARED_USERS", compared_users)
    matrix = random_matrix(50, 70, seed=8, density=0.5, negative=0.1)
    generator = np.random.default_rng(9)
    users = [*shop.user_ids[5:], *(f"new user {row}" for row in range(15))]
    items = [*shop.item_ids[:57], *(f"new item {row}" for row in range(13))]
    made = interactions_of(matrix)
    user_ids, item_ids = (generator.permutation(ids).tolist() for ids in (users, items))
    today = dataclasses.replace(made, user_ids=IdTable.of(user_ids), item_ids=IdTable.of(item_ids))
    old_users = np.repeat(np.arange(len(shop.user_ids)), np.diff(shop.indptr))
    had = {(shop.user_ids[user], shop.item_ids[item]) for user, item in zip(old_users, shop.indices, strict=True)}
    has = [(user_ids[user], item_ids[item]) for user, item in zip(*np.nonzero(matrix), strict=True)]
    found = new_entries(read_histories(Release(repository.current_path())), today)
    assert found.tolist() == [pair not in had for pair in has]
    assert 0 < np.count_nonzero(~found) < len(had)


def test_a_release_with_damaged_histories_says_nothing_of_what_is_new(repository):
    flip(repository.current_path() / "users" / "history.indices.npy")
    with pytest.raises(ReleaseCorrupt, match="changed or damaged"):
        read_histories(Release(repository.current_path()))


# The command, day after day.


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Events of three days: each has those of the day before, and a new item."""
    folder = tmp_path_factory.mktemp("days")
    generator = np.random.default_rng(0)
    rows = [(f"u{user:02}", f"i{item:02}") for user in range(50) for item in generator.choice(24, 6, replace=False)]
    for day in range(3):
        rows += [(f"u{user:02}", f"i{24 + day:02}") for user in generator.choice(50, 8, replace=False)]
        with (folder / f"day{day}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("user_id", "item_id"), *rows])
    return folder


@pytest.fixture(scope="module")
def nights(days, tmp_path_factory):
    """The same command every night, then a cold training; returns the repository and the ids."""
    root = tmp_path_factory.mktemp("nights") / "releases"
    ids = []
    for day, more in (
        (0, ["--warm-start", "live"]),
        (1, ["--warm-start", "live", "--epochs", "2"]),
        (2, ["--warm-start", "live", "--epochs", "2"]),
        (2, []),
    ):
        assert main(["train", str(days / f"day{day}.csv"), "--releases", str(root), *COMMAND, *more]) == 0
        ids.append(Repository(root).current())
    return Repository(root), ids


def exported_items(repository, release_id):
    release = Release(repository.path(release_id))
    part = DensePart.of(release.manifest)
    return read_previous(release).item_ids, exported(part.item_vectors(release), part.export_rotation(release))


def test_the_same_command_works_on_the_first_night_and_on_every_other(nights):
    repository, ids = nights
    manifests = [Release(repository.path(each)).manifest for each in ids]
    assert [each.get("aligned_to") for each in manifests] == [None, *ids[:3]]
    assert [len(each["losses"]) for each in manifests[:3]] == [AlsOptions().epochs, 2, 2]
    assert [each["sizes"]["items"] for each in manifests] == [25, 26, 27, 27]
    assert manifests[1]["configuration"]["warm_start"] == "live"


def test_every_release_but_the_first_has_an_orthogonal_rotation(nights):
    repository, ids = nights
    assert not Release(repository.path(ids[0])).has(EXPORT_ROTATION)
    for release_id in ids[1:]:
        release = Release(repository.path(release_id))
        rotation = release.array(EXPORT_ROTATION, np.float32, (6, 6)).astype(np.float64)
        np.testing.assert_allclose(rotation.T @ rotation, np.eye(6), atol=1e-5)


def test_exported_vectors_of_consecutive_nights_lie_together(nights):
    repository, ids = nights
    for yesterday, today in itertools.pairwise(ids[:3]):
        old_ids, old = exported_items(repository, yesterday)
        new_ids, new = exported_items(repository, today)
        rows = new_ids.rows_of(old_ids.strings)
        assert (rows >= 0).all()
        assert median_cosine(old, new[rows]) > 0.95


def test_a_new_item_is_exported_with_a_vector(nights):
    repository, ids = nights
    for release_id, item_id in zip(ids[1:], ("i25", "i26", "i26"), strict=True):
        item_ids, vectors = exported_items(repository, release_id)
        assert np.linalg.norm(vectors[item_ids.row(item_id)]) > 0.01


def test_a_wrong_number_of_factors_ends_the_command_before_events_are_read(nights, capsys):
    repository, _ = nights
    arguments = ["train", "nowhere.csv", "--releases", str(repository.root), "--warm-start", "live", "--factors", "7"]
    assert main(arguments) == 2
    assert "found 6 factors in release" in capsys.readouterr().err


@pytest.fixture
def one_night(nights, tmp_path):
    """A directory of releases with the first night alone, live."""
    repository, ids = nights
    root = tmp_path / "releases"
    shutil.copytree(repository.path(ids[0]), root / ids[0])
    Repository(root).promote(ids[0])
    return root


def test_early_stopping_holds_nothing_out_that_yesterdays_vectors_were_trained_on(
    days, one_night, tmp_path, monkeypatch, capsys
):
    """Otherwise the first epoch would always look best: its vectors know the answers still."""
    rows = [line.split(",") for line in (days / "day0.csv").read_text().split()]
    had = {tuple(row) for row in rows}
    rows += [[f"u{user:02}", f"i{item:02}"] for user in range(50) for item in (user % 24, (user + 7) % 24)]
    rows += [[f"new{user:02}", f"i{item:02}"] for user in range(30) for item in range(user % 9, user % 9 + 6)]
    with (tmp_path / "today.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    seen = []

    class Looking(early_stopping.EarlyStopping):
        def __init__(self, interactions, *arguments, **options):
            super().__init__(interactions, *arguments, **options)
            users, items = interactions.user_ids, interactions.item_ids
            held_out = self._validation
            seen.extend(zip(users.take(held_out.users), items.take(held_out.items), strict=True))

    monkeypatch.setattr("trainer.training.EarlyStopping", Looking)
    more = ["--warm-start", "live", "--epochs", "3", "--early-stopping", "1"]
    assert main(["train", str(tmp_path / "today.csv"), "--releases", str(one_night), *COMMAND[:-1], *more]) == 0
    assert len(seen) >= early_stopping.MIN_NEW
    assert not had & set(seen)
    assert "holding out an item that release" in capsys.readouterr().err


def test_a_warm_start_with_few_new_events_and_early_stopping_is_wrong_usage(days, one_night, capsys):
    more = ["--warm-start", "live", "--epochs", "2", "--early-stopping", "1"]
    assert main(["train", str(days / "day1.csv"), "--releases", str(one_night), *COMMAND, *more]) == 2
    assert "expected at least 50: leave --early-stopping away" in capsys.readouterr().err


def test_a_training_that_was_killed_between_publishing_and_removing_its_checkpoint_says_so(
    days, one_night, tmp_path, monkeypatch, capsys
):
    class Killed(BaseException):
        """As if by kill -9."""

    def killed(checkpoint):
        raise Killed

    command = ["train", str(days / "day1.csv"), "--releases", str(one_night), *COMMAND, "--warm-start", "live"]
    command += ["--epochs", "2", "--checkpoint", str(tmp_path / "state.npz")]
    first = Repository(one_night).current()
    with monkeypatch.context() as patched:
        patched.setattr("trainer.checkpoint.Checkpoint.remove", killed)
        with pytest.raises(Killed):
            main(command)
    second = Repository(one_night).current()
    assert second != first
    capsys.readouterr()
    assert main(command) == 1
    told = capsys.readouterr().err
    assert f"started from release {first}, and this training starts from release {second}" in told
    assert "it may have been published already; remove it" in told
    assert Repository(one_night).current() == second


def test_two_weeks_of_the_bundled_shop_drift_and_do_not_jump():
    """The facts of benchmarks/warm_start.py that hold at any size."""
    options = AlsOptions(factors=16, epochs=6, threads=1)
    rows = {(row["data"], row["start"]): row for row in benchmark.measure(benchmark.two_weeks(), options, (1,))}
    cold, warm = rows["today", "cold"], rows["today", "warm"]
    assert warm["new_items"] > 0
    assert warm["loss"] < 1.005 * cold["loss"]
    assert warm["cosine"] > 0.98
    assert cold["cosine"] > 0.7
    assert warm["cosine"] > cold["cosine"] > abs(cold["cosine_unaligned"]) + 0.1
    assert warm["recall@20"] > 0.8 * cold["recall@20"]
