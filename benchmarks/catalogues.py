"""What benchmarks.recall searches: item vectors as Nearcart trains them, and queries of the kinds that a server gets.

A catalogue has queries of each kind twice: those that are measured, and others by which Nearcart tunes itself, made of
other users. Kinds are "user", the vectors of users, and "cart 1", "cart 3" and "cart 10": so many items of one user
folded in. Real sets are trained once and kept in a cache; the made one: benchmarks/made_catalogue.py. Checked by
tests/test_recall_benchmark.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.encoders import RidgeEncoder
from trainer.als import train
from trainer.cleaning import Cleaning
from trainer.events import EventColumns
from trainer.interactions import Csr, Interactions, read_interactions
from trainer.options import AlsOptions

Vectors = NDArray[np.float32]
Bag = NDArray[np.int32]
CART_LENGTHS = (1, 3, 10)
USER_QUERIES = 1024
"""A whole batch of the largest size; of the other kinds, and for tuning, there are CART_QUERIES."""
CART_QUERIES = 250
SETS = {
    "gowalla": ("gowalla-lightgcn/train.txt.zst", EventColumns()),
    "completejourney": (
        "completejourney/transactions.parquet",
        EventColumns(user="household_id", item="product_id", timestamp="transaction_timestamp", quantity="quantity"),
    ),
}


@dataclass(frozen=True)
class Catalogue:
    """Items to search and queries float32 (m, d) of each kind. popularity float (n,): the larger, the more popular."""

    name: str
    encoder: RidgeEncoder
    popularity: NDArray[np.floating]
    queries: Mapping[str, Vectors]
    tuning: Mapping[str, Vectors]
    carts: Sequence[Bag]
    """Of ten items, for the time that encoding takes."""

    @property
    def vectors(self) -> Vectors:
        return self.encoder.item_vectors


def real_catalogue(name: str, data: Interactions, factors: int, cache: Path) -> Catalogue:
    """The items and users of a real set, trained or as the cache has them."""
    encoder, users = _trained(name, data, factors, cache)
    by_user = data.by_user

    def bag(user: int, length: int, generator: np.random.Generator) -> Bag:
        return np.sort(generator.choice(by_user.row(user)[0], length, replace=False))

    sizes = np.diff(by_user.indptr)
    popularity = np.bincount(by_user.indices, minlength=by_user.n_columns).astype(np.float64)
    return catalogue_of(name, encoder, popularity, sizes, lambda chosen: users[chosen], bag)


def catalogue_of(
    name: str,
    encoder: RidgeEncoder,
    popularity: NDArray[np.floating],
    sizes: NDArray[np.int64],
    vectors_of: Callable[[NDArray[np.int64]], Vectors],
    bag: Callable[[int, int, np.random.Generator], Bag],
) -> Catalogue:
    """Draw queries: sizes int64 (users,) are those of histories, `bag` draws items of a user's history."""
    generator = np.random.default_rng(1)
    users = generator.permutation(np.flatnonzero(sizes >= 1))
    # At most half of the users are measured: the set with the fewest has 2,469.
    n_measured = min(USER_QUERIES, len(users) // 2)
    measured = {"user": vectors_of(users[:n_measured])}
    tuning = {"user": vectors_of(users[n_measured:][:CART_QUERIES])}
    bags: list[Bag] = []
    for length in CART_LENGTHS:
        able = generator.permutation(np.flatnonzero(sizes >= length))[: 2 * CART_QUERIES]
        bags = [bag(user, length, generator) for user in able.tolist()]
        half = len(bags) // 2
        measured[f"cart {length}"] = folded_in(encoder, bags[:half])
        tuning[f"cart {length}"] = folded_in(encoder, bags[half:])
    return Catalogue(name, encoder, popularity, measured, tuning, bags)


def folded_in(encoder: RidgeEncoder, bags: Sequence[Bag]) -> Vectors:
    """Each bag of items with weight 1, as the server folds it in: float32 (bags, d)."""
    vectors = np.empty((len(bags), encoder.item_vectors.shape[1]), dtype=np.float32)
    for i, items in enumerate(bags):
        vectors[i] = encoder.encode(items, np.ones(len(items), dtype=np.float32))
    return vectors


def read_set(name: str, data: Path) -> Interactions | None:
    """The events of a real set with the default weights; None, and a line that says so, where its file is absent."""
    path, columns = data / SETS[name][0], SETS[name][1]
    if not path.is_file():
        print(f"{path} is absent: {name} is left out", flush=True)
        return None
    return read_interactions([str(path)], columns, cleaning=Cleaning())


def _trained(name: str, data: Interactions, factors: int, cache: Path) -> tuple[RidgeEncoder, Vectors]:
    """The items' encoder and the vectors of all users. The cache is trusted: empty it when training changes."""
    options = AlsOptions(factors=factors, epochs=8 if factors < 512 else 5)
    path = cache / f"{name}-{factors}.npz"
    if not path.is_file():
        print(f"training {name} with {factors} factors", flush=True)
        learned = train(data, options)
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, users=learned.user_vectors, items=learned.item_vectors, spectrum=learned.spectrum)
    with np.load(path) as file:
        users, items, spectrum = file["users"], file["items"], file["spectrum"]
    return encoder_of(items, spectrum, data.by_user, options), users


def encoder_of(items: Vectors, spectrum: Vectors, by_user: Csr, options: AlsOptions) -> RidgeEncoder:
    """What folds carts in: the last half epoch of such a training."""
    weight = options.unobserved_weight_for(by_user.n_rows, by_user.n_columns, by_user.n_entries)
    return RidgeEncoder(items, spectrum, weight, options.regularization, options.regularization_exponent)
