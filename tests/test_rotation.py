"""The rotation is orthogonal, the same every time, and spreads what is concentrated; once more with the JIT off."""

from __future__ import annotations

import numpy as np
import pytest

from engine.rotation import ROUNDS, random_signs, rotate

LENGTHS = [1, 2, 3, 16, 48, 64, 112, 128]


def turned(vectors, signs):
    out = np.array(vectors, dtype=np.float32)
    scratch = np.empty(out.shape[1], dtype=np.float32)
    for row in out:
        rotate(row, signs, scratch)
    return out


@pytest.mark.parametrize("d", LENGTHS)
def test_products_and_norms_stay_as_they_are(d):
    matrix = turned(np.eye(d), random_signs(d)).astype(np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(d), atol=1e-5)


@pytest.mark.parametrize("d", LENGTHS)
def test_it_is_linear(d):
    generator, signs = np.random.default_rng(d), random_signs(d)
    vectors = generator.normal(size=(3, d)).astype(np.float32)
    matrix = turned(np.eye(d), signs).astype(np.float64)
    np.testing.assert_allclose(turned(vectors, signs), vectors @ matrix, atol=1e-5)


@pytest.mark.parametrize("d", [64, 112, 128])
def test_a_vector_of_one_coordinate_becomes_as_even_as_a_normal_one(d):
    matrix = turned(np.eye(d), random_signs(d)).astype(np.float64)
    kurtosis = (matrix**4).mean() / (matrix**2).mean() ** 2
    assert 2.5 < kurtosis < 3.5
    assert np.abs(matrix).max() < 5 / np.sqrt(d)


def test_a_seed_gives_the_same_signs_and_another_seed_others():
    signs = random_signs(64)
    assert signs.shape == (ROUNDS, 64)
    assert set(np.unique(signs)) == {-1, 1}
    np.testing.assert_array_equal(signs, random_signs(64))
    assert (signs != random_signs(64, seed=1)).any()
