"""Early stopping: a few entries are held out, and training ends when finding them no longer gets better.

One liked item of each of some users is kept back; rows, ids and everything else stay as they are. After each epoch
these users are folded in from the rest of their histories, exactly as training ends, and ndcg@20 is measured over the
catalogue without them: the metric of the model that training would publish if this epoch were its last, but for the
precision of a last epoch (float32 tables, rows solved exactly). What was learned by the best epoch is the result, and
the users held out get their whole histories back. A warm start has learned from yesterday's entries, so only new ones
are held out of it. Whether to go on with more data or other options is not decided here. Checked by
tests/test_early_stopping.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ReleaseCorrupt, UsageError
from trainer.als import Embeddings, Epoch
from trainer.errors import EvaluationError, TrainingDiverged
from trainer.evaluate import HeldOut, Scorer, catalogue_ranking
from trainer.fold_in import fold_in
from trainer.half_epoch import Penalty, RowNotFinite
from trainer.interactions import Csr, Interactions
from trainer.metrics import measure, parse_metrics
from trainer.options import AlsOptions

METRIC = "ndcg@20"
MAX_USERS = 5000
MIN_ENTRIES = 5
"""Of a user with an entry held out: fewer would leave too little to be folded in from."""
MIN_NEW = 50
"""Users with a new entry held out, where only new ones may be: the metric of fewer is mostly chance."""
ITEM_COPIES = 2
"""Tables of items beside the one in training: the best epoch's, and the one that is rotated to be measured."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Validation:
    """What is trained on, and the liked item held out of each of some users: `users` int64, rising, `items` int32."""

    training: Interactions
    users: NDArray[np.int64]
    items: NDArray[np.int32]


def hold_out_items(
    interactions: Interactions, generator: np.random.Generator, among: NDArray[np.bool_] | None = None
) -> Validation:
    """Hold out one random liked item of each of up to MAX_USERS random users with at least MIN_ENTRIES entries.

    With `among`, bool (entries,) in the order of `by_user`, only entries where it is true: new ones, of a warm start.
    No item loses all who like it: where all were drawn, they stay. Raises EvaluationError where
    nothing can be held out, UsageError where `among` leaves less than MIN_NEW.
    """
    by_user = interactions.by_user
    sizes = np.diff(by_user.indptr)
    users = np.repeat(np.arange(by_user.n_rows), sizes)
    may = (by_user.values > 0) & (sizes >= MIN_ENTRIES)[users]
    candidates = np.flatnonzero(may if among is None else may & among)
    n_liked = np.bincount(users[candidates], minlength=by_user.n_rows)
    eligible = np.flatnonzero(n_liked)
    drawn = np.sort(generator.choice(eligible, min(MAX_USERS, len(eligible)), replace=False))
    starts = np.cumsum(n_liked) - n_liked
    entries = candidates[starts[drawn] + generator.integers(0, n_liked[drawn])]
    items = by_user.indices[entries]
    n_drawn = np.bincount(items, minlength=by_user.n_columns)
    held_out = entries[(n_drawn < interactions.popularity())[items]]
    if among is not None and len(held_out) < MIN_NEW:
        raise UsageError(
            "--early-stopping with --warm-start holds out entries that the earlier release did not have, of users with "
            f"at least {MIN_ENTRIES}: found {len(held_out)} users with one, expected at least {MIN_NEW}: leave "
            "--early-stopping away and give few --epochs, or train without --warm-start"
        )
    if not len(held_out):
        raise EvaluationError(
            f"early stopping needs users with at least {MIN_ENTRIES} entries, of items that others like too, and "
            "found none: leave --early-stopping away"
        )
    return Validation(_without(interactions, held_out), users[held_out], by_user.indices[held_out])


class EarlyStopping:
    """Given to trainer.als.train as `on_epoch`, with `training` and `options`; `completed` makes the result whole."""

    def __init__(
        self,
        interactions: Interactions,
        options: AlsOptions,
        patience: int,
        *,
        among: NDArray[np.bool_] | None = None,
    ) -> None:
        """Hold out, by the seed of the options; `patience` counts the epochs without a better value that end it.

        `among` as in hold_out_items: to be given where training starts from vectors that saw some of the entries.
        """
        self._interactions = interactions
        self._validation = hold_out_items(interactions, np.random.default_rng(options.seed), among)
        self._remaining = self.training.by_user.selected(self._validation.users)
        self._held_out = _wanted(self._validation)
        self._patience = patience
        self._metrics = parse_metrics(METRIC)
        # By the density of all entries: the result is a model of them.
        weight = options.unobserved_weight_for(interactions.n_users, interactions.n_items, interactions.n_entries)
        self._penalty = Penalty(weight, options.regularization, options.regularization_exponent)
        self.options = replace(options.als(), unobserved_weight=weight)
        self.values: list[float] = []
        self._best_items: Vectors = np.empty((0, options.factors), dtype=np.float32)

    @property
    def training(self) -> Interactions:
        """What to train on."""
        return self._validation.training

    @property
    def n_users(self) -> int:
        """Users with an item held out."""
        return len(self._validation.users)

    @property
    def best_epoch(self) -> int:
        """The epoch of the best value, the first of equal ones; the first is 1."""
        return int(np.argmax(self.values)) + 1

    def __call__(self, epoch: Epoch) -> Vectors | None:
        """Measure; the best epoch's items end a training that does not get better, or is at its end."""
        self.values.append(self._measured(epoch.item_vectors))
        if self.best_epoch == epoch.epoch:
            self._best_items = epoch.item_vectors.copy()
            return None
        has_waited = epoch.epoch - self.best_epoch >= self._patience
        return self._best_items if has_waited or epoch.epoch == self.options.epochs else None

    def state(self) -> dict[str, NDArray[Any]]:
        """For a checkpoint: the value of each epoch, and the items of the best."""
        return {"values": np.array(self.values), "best_items": self._best_items}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Be as when `state` was saved."""
        self.values = state["values"].tolist()
        self._best_items = state["best_items"]

    def described(self) -> str:
        """The last value, and the best one where that is another."""
        if not self.values:
            return ""
        told = f"{METRIC} {self.values[-1]:.4f}"
        is_best = self.best_epoch == len(self.values)
        return told if is_best else f"{told}, best {max(self.values):.4f}"

    def completed(self, embeddings: Embeddings) -> Embeddings:
        """The users held out solved once more, from whole histories, in place; losses up to the best epoch."""
        encoder = embeddings.encoder()
        for user in self._validation.users.tolist():
            try:
                embeddings.user_vectors[user] = encoder.encode(*self._interactions.by_user.row(user))
            except ReleaseCorrupt:
                raise self._diverged(user) from None
        return replace(embeddings, losses=embeddings.losses[: self.best_epoch])

    def _measured(self, item_vectors: Vectors) -> float:
        threads = self.options.threads
        try:
            users, table = fold_in(self._remaining, item_vectors, self._penalty, threads)
        except RowNotFinite as error:
            raise self._diverged(int(self._validation.users[error.row])) from None
        depth = self._metrics[0].k
        ranking = catalogue_ranking(
            Scorer(users, table.vectors), self._remaining, self._held_out, depth, threads=threads
        )
        return measure(self._metrics, ranking).means[METRIC]

    def _diverged(self, user: int) -> TrainingDiverged:
        return TrainingDiverged(
            f"the vector of user {self._interactions.user_ids[user]!r} is not finite: event weights should be of the "
            "order of 1; lower them"
        )


def _wanted(validation: Validation) -> HeldOut:
    """What is to be found, by place among the users held out; prices play no part."""
    n = len(validation.users)
    no_prices = np.full(validation.training.n_items, np.nan, dtype=np.float32)
    items = tuple(validation.items[:, np.newaxis])
    return HeldOut(np.arange(n, dtype=np.int32), items, np.ones(n, dtype=np.int64), np.zeros(n), no_prices, 0, 0)


def _without(interactions: Interactions, entries: NDArray[np.int64]) -> Interactions:
    """The same rows without some entries. Baskets stay: training does not look at them."""
    by_user = interactions.by_user
    kept = np.ones(by_user.n_entries, dtype=np.bool_)
    kept[entries] = False
    before = np.append(0, np.cumsum(kept))
    rest = Csr(before[by_user.indptr], by_user.indices[kept], by_user.values[kept], n_columns=by_user.n_columns)
    return replace(
        interactions,
        by_user=rest,
        by_item=rest.transposed(),
        counts=interactions.counts[kept],
        quantities=interactions.quantities[kept],
        last_times=interactions.last_times[kept],
    )
