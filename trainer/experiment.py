"""What a search measures its trials with: one cut of the events, under any weighting, and a metric of item vectors.

Events are read once, weighed by their sums alone; the other weightings follow from those by trainer.weighting. Only the
heaviest event of an entry is not in the sum, so `binary` reads once more where events weigh differently. Ranking and
metrics are trainer.evaluate's and trainer.metrics'; which trials there are is trainer.tuning's. Checked by
tests/test_tuning.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trainer.als import Epoch, train
from trainer.cleaning import Cleaning
from trainer.digest import digest_of
from trainer.errors import EventsError, TrainingDiverged
from trainer.evaluate import (
    HeldOut,
    Scorer,
    catalogue_ranking,
    check_metrics,
    hold_out,
    known_items,
    popularity_scorer,
    seen_items,
)
from trainer.fold_in import fold_in
from trainer.half_epoch import Penalty, RowNotFinite
from trainer.interactions import Csr, Interactions
from trainer.metrics import Metric, measure
from trainer.options import AlsOptions
from trainer.splits import Split
from trainer.weighting import Weighting, weigh_alone, weigh_among_all

Read = Callable[[Weighting], Split]
"""The same cut of the same events under a weighting."""


@dataclass(frozen=True)
class _Weighed:
    """Training under one weighting, and what the validation users have seen: rows as in `HeldOut.users`."""

    weighting: Weighting
    train: Interactions
    seen: Csr


class EventsExperiment:
    """Trains on one part of the events and measures on the other. Weighted entries are kept for one weighting only."""

    def __init__(
        self, read: Read, cleaning: Cleaning, metric: Metric, *, seed: int = 42, most_users: int = 0, threads: int = 0
    ) -> None:
        """Read. Of the validation users `most_users` are drawn by the seed, 0 takes all. Raises NearcartError."""
        self._read, self._cleaning, self._metric, self._threads = read, cleaning, metric, threads
        self.split = read("count")
        whole = hold_out(self.split.train, self.split.test, self.split.history)
        check_metrics((metric,), whole)
        self._users, self._held_out = _drawn(whole, most_users, seed)
        self._strongest: tuple[NDArray[np.float32], NDArray[np.float32] | None] | None = None
        self._kept: _Weighed | None = None

    @property
    def n_users(self) -> int:
        """Users that the metric is a mean over."""
        return len(self._users)

    def digest(self) -> str:
        """Names the events and their cut: parts with other entries, sums or ids have another."""
        parts = [part for part in (self.split.train, self.split.history, self.split.test) if part is not None]
        return digest_of(*(array for part in parts for array in part.arrays()))

    def default_unobserved_weight(self) -> float:
        """What training takes where nothing is given."""
        train = self.split.train
        return AlsOptions().unobserved_weight_for(train.n_users, train.n_items, train.n_entries)

    def regularization(self, strength: float, unobserved_weight: float, exponent: float) -> float:
        """The lambda under an exponent nu whose total over all rows is that of lambda = strength under nu = 1.

        Without it the best lambda moves by orders of magnitude with nu (Rendle et al. 2021, section 4.3).
        """
        train = self.split.train
        by_user = np.diff(train.by_user.indptr) + unobserved_weight * train.n_items
        by_item = np.diff(train.by_item.indptr) + unobserved_weight * train.n_users
        totals = [float((by_user**nu).sum() + (by_item**nu).sum()) for nu in (1.0, exponent)]
        return strength * totals[0] / totals[1]

    def run(self, options: AlsOptions, weighting: Weighting, on_epoch: Callable[[int, float, float], None]) -> None:
        """Train; tell epoch, metric and seconds of the epoch after each. What `on_epoch` raises ends the training.

        The metric is that of the model which training would publish if this epoch were its last, but for the precision
        of a last epoch (float32 tables, rows solved exactly): users are solved anew, exactly, against the items as they
        are, while those of the epoch belong to the items before.
        """
        weighed = self.weighed(weighting)

        def measured(epoch: Epoch) -> None:
            on_epoch(epoch.epoch, self._measure(epoch.item_vectors, weighed, options), epoch.seconds)

        train(weighed.train, options, on_epoch=measured)

    def popularity(self) -> float:
        """The metric of the most-popular ranking."""
        weighed = self.weighed(self._kept.weighting if self._kept else "count")
        return self._ranked(popularity_scorer(weighed.train, self.n_users), weighed)

    def weighed(self, weighting: Weighting) -> _Weighed:
        """The parts as reading them under a weighting gives them, but for the rounding of sums to float32."""
        if self._kept is None or self._kept.weighting != weighting:
            self._kept = None
            of_train, of_history = self._heaviest() if weighting == "binary" else (None, None)
            train = self._weigh(self.split.train, of_train, weighting)
            seen = train.by_user
            if self.split.history is not None:
                seen = seen_items(train, self._weigh(self.split.history, of_history, weighting))
            self._kept = _Weighed(weighting, train, seen.selected(self._users))
        return self._kept

    def _heaviest(self) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """The weight of each entry's heaviest event, in training and history; None where each event weighs 1."""
        if not self._cleaning.event_weights and self._cleaning.half_life_days is None:
            return None, None
        if self._strongest is None:
            again = self._read("binary")
            history = None if again.history is None else again.history.by_user.values
            self._strongest = again.train.by_user.values, history
            if len(self._strongest[0]) != self.split.train.n_entries:
                raise EventsError("the files of events changed during the search: run it again, into another --output")
        return self._strongest

    def _weigh(self, part: Interactions, heaviest: NDArray[np.float32] | None, weighting: Weighting) -> Interactions:
        entries = part.by_user
        sums = entries.values.astype(np.float64)
        alone = weigh_alone(sums, np.sign(sums) if heaviest is None else heaviest.astype(np.float64), weighting)
        rules = (weighting, self._cleaning.saturation, self._cleaning.length_normalization)
        values = weigh_among_all(alone, entries.indptr, entries.indices, *rules).astype(np.float32)
        by_user = replace(entries, values=values)
        return replace(part, by_user=by_user, by_item=by_user.transposed())

    def _measure(self, item_vectors: NDArray[np.float32], weighed: _Weighed, options: AlsOptions) -> float:
        train = weighed.train
        penalty = Penalty(
            options.unobserved_weight_for(train.n_users, train.n_items, train.n_entries),
            options.regularization,
            options.regularization_exponent,
        )
        try:
            users, table = fold_in(weighed.seen, item_vectors, penalty, self._threads)
        except RowNotFinite as error:
            raise TrainingDiverged(f"the vector of a validation user is not finite ({error})") from None
        return self._ranked(Scorer(users, table.vectors), weighed)

    def _ranked(self, scorer: Scorer, weighed: _Weighed) -> float:
        catalogue = known_items(weighed.train, self._held_out, scorer.item_vectors)
        ranking = catalogue_ranking(
            scorer, weighed.seen, self._held_out, self._metric.k, catalogue=catalogue, threads=self._threads
        )
        return measure((self._metric,), ranking).means[self._metric.name]


def _drawn(held_out: HeldOut, most_users: int, seed: int) -> tuple[NDArray[np.int32], HeldOut]:
    """The rows of the users who are measured, and what was held out of each, by place among them."""
    n_users = len(held_out.users)
    drawn = np.arange(n_users)
    if 0 < most_users < n_users:
        drawn = np.sort(np.random.default_rng(seed).choice(n_users, most_users, replace=False))
    of_drawn = replace(
        held_out,
        users=np.arange(len(drawn), dtype=np.int32),
        items=tuple(held_out.items[place] for place in drawn.tolist()),
        n_relevant=held_out.n_relevant[drawn],
        relevant_price=held_out.relevant_price[drawn],
    )
    return held_out.users[drawn], of_drawn
