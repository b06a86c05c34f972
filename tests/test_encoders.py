"""The ridge encoder as serving uses it: exact, and safe against damaged files."""

from __future__ import annotations

import numpy as np
import pytest
import reference

from engine.encoders import RidgeEncoder
from engine.errors import ReleaseCorrupt
from engine.vector_formats import FORMATS
from engine.vector_table import VectorTable, table_of

A0, REGULARIZATION, EXPONENT = 0.1, 0.02, 0.7


@pytest.fixture(params=FORMATS)
def encoder(request):
    """Over vectors with a diagonal Gram matrix; packed ones are whole numbers of the same scale, so that it is theirs
    too."""
    if request.param == "float32":
        vectors = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
        values, rotation = np.linalg.eigh(vectors.astype(np.float64).T @ vectors)
        items = table_of((vectors @ rotation).astype(np.float32))
        return RidgeEncoder(items, values.astype(np.float32), A0, REGULARIZATION, EXPONENT)
    codes = np.tile(hadamard(), (5, 1)) * np.array([11, 7, 5, 3, 2, 1])
    items = VectorTable(codes.astype(request.param), np.full(40, 0.1, dtype=np.float32))
    spectrum = np.square(items[:].astype(np.float64)).sum(axis=0).astype(np.float32)
    return RidgeEncoder(items, spectrum, A0, REGULARIZATION, EXPONENT)


def hadamard():
    """Six orthogonal columns of eight signs."""
    two = np.array([[1, 1], [1, -1]])
    return np.kron(two, np.kron(two, two))[:, 2:]


@pytest.mark.parametrize("size", [1, 5, 6, 7, 40])
def test_a_bag_of_items_encodes_to_the_solution_of_its_normal_equations(encoder, size):
    generator = np.random.default_rng(size)
    rows = np.sort(generator.choice(40, size, replace=False)).astype(np.int32)
    values = generator.uniform(-1, 2, size).astype(np.float32)
    weights, targets = reference.dense(np.array([0, size]), rows, values, 40)
    penalty = reference.row_penalty(size, A0, REGULARIZATION, EXPONENT, 40)
    expected = reference.solve_row(weights[0], targets[0], encoder.item_vectors[:], A0, penalty)
    np.testing.assert_allclose(encoder.encode(rows, values), expected, rtol=1e-3, atol=1e-5)


def test_no_items_encode_to_zero(encoder):
    assert not encoder.encode(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)).any()


@pytest.mark.parametrize("row", [-1, 40, 2**31 - 1])
def test_rows_that_are_no_items_are_refused(encoder, row):
    with pytest.raises(ReleaseCorrupt, match="outside the 40 of the release"):
        encoder.encode(np.array([3, row], dtype=np.int32), np.ones(2, dtype=np.float32))


def test_a_damaged_weight_is_refused(encoder):
    with pytest.raises(ReleaseCorrupt, match="not finite"):
        encoder.encode(np.array([3], dtype=np.int32), np.array([np.nan], dtype=np.float32))


@pytest.mark.parametrize("size", [1, 5, 6, 20])
def test_the_shares_of_a_history_are_its_definition_and_add_up_to_each_score(encoder, size):
    generator = np.random.default_rng(size)
    rows = np.sort(generator.choice(40, size, replace=False)).astype(np.int32)
    values = generator.uniform(-1, 2, size).astype(np.float32)
    others = np.arange(0, 40, 3, dtype=np.int32)
    found = encoder.shares(rows, values, others)
    vectors = encoder.item_vectors[:].astype(np.float64)
    weights, targets = np.abs(values).astype(np.float64), values > 0
    penalty = reference.row_penalty(size, A0, REGULARIZATION, EXPONENT, 40)
    matrix = A0 * vectors.T @ vectors + penalty * np.eye(6) + vectors[rows].T @ (weights[:, np.newaxis] * vectors[rows])
    expected = vectors[others] @ np.linalg.solve(matrix, vectors[rows].T) * (weights * targets)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    scores = encoder.item_vectors[others] @ encoder.encode(rows, values)
    np.testing.assert_allclose(found.sum(axis=1), scores, rtol=1e-3, atol=1e-5)  # 5 and 6 items: either matrix
    assert not found[:, values < 0].any()
