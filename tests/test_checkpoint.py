"""Checkpoints: a training that was stopped, in any way, ends with the bits of one that was not."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from pathlib import Path

import killed_training
import numpy as np
import pytest
from made_interactions import interactions_of, random_matrix

from engine.errors import UsageError
from trainer.als import train
from trainer.checkpoint import STARTED_FROM, Checkpoint
from trainer.errors import CheckpointMismatch
from trainer.options import AlsOptions

OPTIONS = AlsOptions(factors=6, epochs=5, regularization=0.02, unobserved_weight=0.1, tolerance=1e-5, threads=1)
INTERACTIONS = interactions_of(random_matrix(60, 30, seed=1))


class Stop(Exception):
    """What a test stops a training with."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "made if needed" / "state.npz"


def learn(path, options=OPTIONS, interactions=INTERACTIONS, **others):
    checkpoint = None if path is None else Checkpoint(path)
    return train(interactions, options, checkpoint=checkpoint, **others)


def stop_after(path, epoch, options=OPTIONS, interactions=INTERACTIONS):
    """A training that is stopped in the first half of the epoch after `epoch`."""

    def interrupt(progress):
        if progress.last is not None and progress.last.epoch == epoch:
            raise Stop

    with pytest.raises(Stop):
        learn(path, options, interactions, on_progress=interrupt)


def assert_same(found, expected):
    np.testing.assert_array_equal(found.item_vectors, expected.item_vectors)
    np.testing.assert_array_equal(found.user_vectors, expected.user_vectors)
    np.testing.assert_array_equal(found.spectrum, expected.spectrum)
    assert found.losses == expected.losses


@pytest.mark.parametrize("epoch", [1, 3, 5])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_training_that_was_stopped_goes_on_to_the_same_bits_with_any_number_of_threads(path, epoch, threads):
    stop_after(path, epoch)
    epochs = []
    options = dataclasses.replace(OPTIONS, threads=threads)
    found = learn(path, options, on_epoch=lambda done: epochs.append(done.epoch))
    assert epochs == list(range(epoch + 1, 6))
    assert_same(found, learn(None))


def test_a_training_that_is_stopped_in_its_hook_does_that_epoch_again(path):
    def interrupt(epoch):
        if epoch.epoch == 3:
            raise Stop

    with pytest.raises(Stop):
        learn(path, on_epoch=interrupt)
    epochs = []
    found = learn(path, on_epoch=lambda done: epochs.append(done.epoch))
    assert epochs == [3, 4, 5]
    assert_same(found, learn(None))


def test_a_training_that_is_stopped_before_its_first_epoch_leaves_nothing(path):
    with pytest.raises(Stop):
        learn(path, on_progress=lambda progress: (_ for _ in ()).throw(Stop))
    assert list(path.parent.iterdir()) == []
    assert_same(learn(path), learn(None))


def test_a_finished_training_is_read_back_and_not_repeated(path):
    first = learn(path)
    assert_same(learn(path, on_epoch=lambda done: pytest.fail("an epoch was repeated")), first)


def test_progress_counts_what_is_left_to_do(path):
    stop_after(path, 3)
    told = []
    learn(path, on_progress=told.append)
    assert [each.done for each in told] == sorted(each.done for each in told)
    assert 0 < told[0].done <= 0.25
    assert told[-1].done == pytest.approx(1.0)


def test_it_says_where_it_goes_on(path):
    said = []
    train(INTERACTIONS, OPTIONS, checkpoint=Checkpoint(path, on_step=said.append))
    assert said == []
    stop_after(path.with_name("other.npz"), 2)
    train(INTERACTIONS, OPTIONS, checkpoint=Checkpoint(path.with_name("other.npz"), on_step=said.append))
    assert said == [f"going on after epoch 2 of 5, from {path.with_name('other.npz')}"]


@pytest.mark.parametrize("patience", [0, 25])
def test_a_training_that_is_killed_again_and_again_ends_with_the_bits_of_one_that_was_not(tmp_path, patience):
    command = [sys.executable, Path(killed_training.__file__), tmp_path, str(patience)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) >= 3
    assert sorted(each.name for each in tmp_path.iterdir()) == ["result.npz", "state.npz"]
    expected = killed_training.learn(tmp_path, patience)
    with np.load(tmp_path / "result.npz") as found:
        assert set(found.files) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_a_save_that_fails_leaves_the_epoch_before_and_the_training_goes_on(path, failing, monkeypatch, caplog):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    def break_after_two(epoch):
        if epoch.epoch == 3:
            monkeypatch.setattr(failing, fail)

    with caplog.at_level(logging.WARNING):
        found = learn(path, on_epoch=break_after_two)
    monkeypatch.undo()
    assert "could not be written, training goes on without: [Errno 28] No space left on device" in caplog.text
    assert_same(found, learn(None))
    epochs = []
    assert_same(learn(path, on_epoch=lambda done: epochs.append(done.epoch)), found)
    assert epochs == [3, 4, 5]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_place_that_cannot_be_written_is_refused_before_the_first_epoch(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be written .*: name a file in a directory that you may write to"):
        learn(tmp_path / "file" / "state.npz")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"factors": 5}, "with factors 6, and this training has 5"),
        ({"epochs": 6}, "with epochs 5, and this training has 6"),
        ({"seed": 1}, "with seed 42, and this training has 1"),
        ({"tolerance": 1e-6}, "with tolerance 1e-05, and this training has 1e-06"),
        ({"regularization": 0.03}, "with regularization 0.02, and this training has 0.03"),
        ({"unobserved_weight": 0.2}, r"with unobserved_weight 0\.1, and this training has 0\.2"),
    ],
)
def test_a_checkpoint_of_other_options_is_refused(path, change, told):
    stop_after(path, 2)
    expected = f"{told}: remove it to start anew, or give the options and events that it was made with"
    with pytest.raises(CheckpointMismatch, match=expected):
        learn(path, dataclasses.replace(OPTIONS, **change))


def test_a_checkpoint_of_other_events_is_refused(path):
    options = dataclasses.replace(OPTIONS, unobserved_weight=None)
    matrix = random_matrix(60, 30, seed=1)
    stop_after(path, 2, options, interactions_of(matrix))
    matrix[7, 2] = 0 if matrix[7, 2] else 1
    with pytest.raises(CheckpointMismatch, match="is of a training with other events: remove it"):
        learn(path, options, interactions_of(matrix))


def test_a_checkpoint_of_the_same_events_with_other_ids_is_refused(path):
    stop_after(path, 2)
    renamed = dataclasses.replace(INTERACTIONS, item_ids=INTERACTIONS.user_ids)
    with pytest.raises(CheckpointMismatch, match="other events"):
        learn(path, OPTIONS, renamed)


def test_a_checkpoint_of_other_first_vectors_is_refused(path):
    stop_after(path, 2)
    first = np.ones((30, 6), dtype=np.float32)
    with pytest.raises(CheckpointMismatch, match="other first vectors"):
        learn(path, initial_items=first)


def test_details_beside_the_options_must_agree_as_well(path):
    train(INTERACTIONS, OPTIONS, checkpoint=Checkpoint(path, details={"early_stopping": 3}))
    with pytest.raises(CheckpointMismatch, match="with early_stopping 3, and this training has 0"):
        train(INTERACTIONS, OPTIONS, checkpoint=Checkpoint(path, details={"early_stopping": 0}))


def test_a_checkpoint_that_started_from_another_release_tells_it_as_the_cause_and_before_there_is_data(path):
    stop_after(path, 2)
    train(INTERACTIONS, OPTIONS, checkpoint=Checkpoint(path.with_name("a"), details={STARTED_FROM: "A"}))
    expected = (
        "started from release A, and this training starts from release B: it may have been published already; remove it"
    )
    later = Checkpoint(path.with_name("a"), details={STARTED_FROM: "B"})
    with pytest.raises(CheckpointMismatch, match=expected):
        train(INTERACTIONS, OPTIONS, initial_items=np.ones((30, 6), dtype=np.float32), checkpoint=later)
    with pytest.raises(CheckpointMismatch, match=expected):
        later.require_details()
    with pytest.raises(CheckpointMismatch, match="started from random vectors, and this training starts from release"):
        Checkpoint(path, details={STARTED_FROM: "B"}).require_details()
    Checkpoint(path.with_name("a"), details={STARTED_FROM: "A"}).require_details()
    Checkpoint(path.with_name("none"), details={STARTED_FROM: "A"}).require_details()


@pytest.mark.parametrize("content", [b"", b"PK", b"no checkpoint\n", b"\x93NUMPY" + bytes(40)])
def test_a_file_that_is_no_checkpoint_is_refused_and_stays(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(
        CheckpointMismatch, match=r"is no checkpoint, or a damaged one: name another file; .* remove it to start anew"
    ):
        learn(path)
    assert path.read_bytes() == content


def test_a_directory_in_the_place_of_the_file_is_refused(path):
    path.mkdir(parents=True)
    with pytest.raises(CheckpointMismatch, match="is no checkpoint"):
        learn(path)


def test_a_file_that_was_cut_is_refused_wherever_it_was_cut(path):
    stop_after(path, 2)
    whole = path.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointMismatch):
            learn(path)


def test_a_flipped_bit_is_refused_or_changes_nothing(path):
    """It changes nothing in what nobody reads, such as the time in a directory of a zip file."""
    stop_after(path, 2)
    whole, expected = path.read_bytes(), learn(None)
    generator = np.random.default_rng(0)
    refused = 0
    for place in generator.choice(len(whole), 150, replace=False).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            assert_same(learn(path), expected)
        except CheckpointMismatch:
            refused += 1
    assert refused > 100


def test_what_a_killed_process_was_writing_does_not_stay(path):
    path.parent.mkdir()
    unfinished = path.with_name(f".{path.name}.partial")
    unfinished.write_bytes(b"half")
    learn(path)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    unfinished.write_bytes(b"half")
    Checkpoint(path).remove()
    assert list(path.parent.iterdir()) == []
    Checkpoint(path).remove()
