"""Tables in files: the same bits, and nothing left behind."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_interactions import interactions_of, random_matrix

from engine.errors import UsageError
from trainer.als import train
from trainer.errors import MemoryShort
from trainer.memory import predicted_bytes, require_memory
from trainer.options import AlsOptions
from trainer.scratch import empty_in

OPTIONS = AlsOptions(factors=6, epochs=3, unobserved_weight=0.1, threads=2)


def test_training_with_users_in_files_gives_the_same_bits_and_leaves_no_file(tmp_path):
    interactions = interactions_of(random_matrix(60, 40, seed=1))
    plain = train(interactions, OPTIONS)
    filed = train(interactions, dataclasses.replace(OPTIONS, scratch=tmp_path))
    np.testing.assert_array_equal(filed.user_vectors, plain.user_vectors)
    np.testing.assert_array_equal(filed.item_vectors, plain.item_vectors)
    assert isinstance(filed.user_vectors.base, np.memmap)
    assert list(tmp_path.iterdir()) == []


def test_tables_without_rows_need_no_file(tmp_path):
    assert empty_in(tmp_path)((0, 4), np.int16).shape == (0, 4)


def test_a_directory_that_is_not_there_is_named(tmp_path):
    options = dataclasses.replace(OPTIONS, scratch=tmp_path / "absent")
    with pytest.raises(UsageError, match=r"--scratch .*absent: No such file or directory: expected a directory"):
        train(interactions_of(random_matrix(20, 10, seed=1)), options)


def test_users_in_files_are_not_counted_as_memory(tmp_path):
    interactions = interactions_of(random_matrix(4000, 10, seed=1))
    options = AlsOptions(factors=64, threads=1)
    short = predicted_bytes(4000, 10, 64, 1, item_copies=1) - 1
    with pytest.raises(MemoryShort, match="--scratch"):
        require_memory(interactions, options, available=short)
    require_memory(interactions, dataclasses.replace(options, scratch=tmp_path), available=short)
