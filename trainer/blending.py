"""What each part of a recommender counts, found on cases that were held out, for users and for carts apart.

First how fast each sparse part forgets (the recency of its encoder), by what it finds alone; then the weights, by what
the sum finds: the best part alone, and one by one the part and weight that add most, as long as they add more than one
standard error of the difference (Breiman et al. 1984, section 3.4.3, against weights that fit noise). Vectors always
count a little, since they alone score every item. What repeats is weighed last, by cases in which what a user has
competes: it scores nothing else. Sums are over the union of what each part finds best. Checked by
tests/test_blending.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.index import Index
from engine.kinds import ByKind, Kind
from engine.recommender import DenseMemory, Recommender
from engine.sparse_part import SparsePart
from trainer.als import Embeddings
from trainer.cases import Cases
from trainer.learned import BOTH, DENSE_NAME, Learned
from trainer.model_options import BLEND, REPEAT

_DEPTH = 200
"""Candidates that each part brings to a case."""
_AT = 20
"""Cases are judged by ndcg@20."""
_WEIGHTS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Tried for a part, beside the best alone, in units in which the scores of all parts are of one size."""
_OF_THE_REST = 0.01
"""In the same units, what vectors count where they add nothing: enough to order what no memory knows."""
_RECENCIES = (0.0, 0.35, 0.7, 1.4)
_MOST_ROUNDS = 8
_OFF = ByKind(0.0, 0.0)


@dataclass(frozen=True)
class Setting:
    """What a part counts, and how fast its encoder forgets."""

    weight: ByKind
    recency: ByKind


@dataclass(frozen=True)
class Found:
    """The settings of the parts that count, by name, and ndcg@20 of each part alone and of the sum, by kind.

    `errors` are the standard errors of the sum's, by kind.
    """

    settings: Mapping[str, Setting]
    metrics: Mapping[str, Mapping[str, float]]
    errors: Mapping[str, float]


def find_settings(
    learned: Learned, cases: Sequence[Cases], repeats: Cases | None, on_step: Callable[[str], None] = lambda text: None
) -> Found:
    """Settings for the parts of a training that did not see the cases, which are of different kinds.

    `repeats` are cases in which what a user has may come back. A kind without cases is answered as the other is.
    """
    parts: dict[str, Recommender] = {}
    if learned.embeddings is not None:
        parts[DENSE_NAME] = _dense_alone(learned.embeddings)
    settings = {name: Setting(_OFF, _OFF) for name in (*parts, *(part.name for part in learned.sparse))}
    metrics: dict[str, Mapping[str, float]] = {}
    errors: dict[str, float] = {}
    for each in cases:
        for part in learned.sparse:
            if part.name != REPEAT:
                parts[part.name] = _remembered(part, each, settings)
        weights, metrics[each.kind], errors[each.kind] = _weighed(_Table.of(parts, each))
        _enter(settings, weights, each.kind)
        on_step(f"{each.kind}s: {_told(weights, metrics[each.kind])}")
    is_alike = len({each.kind for each in cases}) == 1
    if is_alike:
        settings = {name: _alike(each) for name, each in settings.items()}
    for part in learned.sparse if repeats is not None else ():
        if part.name == REPEAT and repeats is not None:
            parts[REPEAT] = _remembered(part, repeats, settings)
            for other in learned.sparse:
                if other.name != REPEAT:
                    recency = settings[other.name].recency.of(repeats.kind)
                    parts[other.name] = _alone(other, recency, repeats.n_items)
            fixed = {name: each.weight.of(repeats.kind) for name, each in settings.items() if name != REPEAT}
            weights, metrics["repeats"], errors["repeats"] = _weighed(_Table.of(parts, repeats), fixed)
            _enter(settings, {REPEAT: weights.get(REPEAT, 0.0)}, repeats.kind)
            if is_alike:
                settings[REPEAT] = _alike(settings[REPEAT])
            on_step(f"repeats: {_told(weights, metrics['repeats'])}")
    return Found({name: each for name, each in settings.items() if any(each.weight)}, metrics, errors)


def with_settings(learned: Learned, settings: Mapping[str, Setting]) -> Learned:
    """Parts with these settings; those that have none are left out."""
    sparse = tuple(
        replace(part, weight=setting.weight, encoder=replace(part.encoder, recency=setting.recency))
        for part in learned.sparse
        if (setting := settings.get(part.name)) is not None
    )
    dense = settings.get(DENSE_NAME)
    if dense is None:
        return replace(learned, embeddings=None, sparse=sparse)
    return replace(learned, sparse=sparse, dense_weight=dense.weight)


def equal_settings(learned: Learned, cases: Cases) -> dict[str, Setting]:
    """Every part counting alike, its scores of the cases being of one size, and forgetting nothing."""
    parts = {} if learned.embeddings is None else {DENSE_NAME: _dense_alone(learned.embeddings)}
    parts |= {part.name: _alone(part, 0.0, cases.n_items) for part in learned.sparse}
    weights = {name: float(f"{1 / scale:.4g}") for name, scale in _Table.of(parts, cases).scales().items()}
    return {name: Setting(ByKind(weight, weight), _OFF) for name, weight in weights.items()}


def _alike(setting: Setting) -> Setting:
    """The settings of the one kind that there were cases of, for both; the other's are 0."""
    return Setting(ByKind(*2 * [sum(setting.weight)]), ByKind(*2 * [sum(setting.recency)]))


def _enter(settings: dict[str, Setting], weights: Mapping[str, float], kind: Kind) -> None:
    for name, weight in weights.items():
        before = settings[name]
        settings[name] = replace(before, weight=before.weight._replace(**{kind: float(f"{weight:.4g}")}))


@dataclass(frozen=True)
class Remembered:
    """The recency with which a part finds most alone, and its ndcg@20 then."""

    recency: float
    metric: float


def best_recency(part: SparsePart, cases: Cases) -> Remembered:
    """Of a few recencies, none where the evidence has no ages; ties fall to the least."""
    best = Remembered(0.0, -1.0)
    has_ages = any(each.ages.any() for each in cases.evidence)
    for recency in _RECENCIES if has_ages else _RECENCIES[:1]:
        alone = {part.name: _alone(part, recency, cases.n_items)}
        metric = float(_Table.of(alone, cases, _AT).ndcg({part.name: 1.0}).mean())
        if metric > best.metric + 1e-6:
            best = Remembered(recency, metric)
    return best


def _remembered(part: SparsePart, cases: Cases, settings: dict[str, Setting]) -> Recommender:
    """The part with its best recency, which is entered into the settings."""
    recency = best_recency(part, cases).recency
    before = settings[part.name]
    settings[part.name] = replace(before, recency=before.recency._replace(**{cases.kind: recency}))
    return _alone(part, recency, cases.n_items)


def _alone(part: SparsePart, recency: float, n_items: int) -> Recommender:
    """The part as if it were all there is, with a recency."""
    encoder = replace(part.encoder, recency=ByKind(recency, recency))
    return Recommender(None, [replace(part, weight=BOTH, encoder=encoder)], np.ones(n_items, dtype=np.bool_))


def _dense_alone(embeddings: Embeddings) -> Recommender:
    index = Index.in_memory(embeddings.item_vectors)
    dense = DenseMemory(DENSE_NAME, BOTH, embeddings.encoder(), embeddings.user_vectors, index)
    return Recommender(dense, [], np.ones(len(embeddings.item_vectors), dtype=np.bool_))


def _weighed(
    table: _Table, fixed: Mapping[str, float] | None = None
) -> tuple[dict[str, float], dict[str, float], float]:
    """Weights of the parts that count, what each alone and their sum find, and the standard error of the sum's.

    Without `fixed` the best part weighs 1. Weights that are fixed stay, also 0, and parts that have none are weighed.
    """
    alone = {name: table.ndcg({name: 1.0}) for name in table.names}
    scales = table.scales()
    if fixed is None:
        best = max(table.names, key=lambda name: float(alone[name].mean()))
        weights, now, free = {best: 1.0}, alone[best], [name for name in table.names if name != best]
        unit = scales[best]
    else:
        weights = {name: weight for name, weight in fixed.items() if weight}
        now, free = table.ndcg(weights), [name for name in table.names if name not in fixed]
        unit = float(np.sqrt(sum((weight * scales[name]) ** 2 for name, weight in weights.items()))) or 1.0
    for _ in range(_MOST_ROUNDS):
        gains: list[tuple[float, int, dict[str, float], NDArray[np.float64]]] = []
        for name in free:
            for weight in _WEIGHTS:
                tried = {**weights, name: weight * unit / scales[name]}
                found = table.ndcg(tried)
                gains.append((float((found - now).mean()), len(gains), tried, found))
        if not gains:
            break
        gain, _, tried, found = max(gains)
        if gain <= _standard_error(found - now):
            break
        weights, now = tried, found
    if DENSE_NAME in free and DENSE_NAME not in weights:
        # It alone scores every item: what no memory knows is ordered by it.
        weights = {**weights, DENSE_NAME: _OF_THE_REST * unit / scales[DENSE_NAME]}
        now = table.ndcg(weights)
    metrics = {**{name: float(each.mean()) for name, each in alone.items()}, BLEND: float(now.mean())}
    return weights, metrics, min(1.0, _standard_error(now))  # of one case: whatever lies between 0 and 1


def _standard_error(differences: NDArray[np.float64]) -> float:
    """Of their mean, and a little more: what a single case gains is exactly one of these, but for rounding."""
    n = len(differences)
    return float(differences.std(ddof=1)) / np.sqrt(n) * (1 + 1e-9) if n > 1 else np.inf


def _told(weights: Mapping[str, float], metrics: Mapping[str, float]) -> str:
    """In words."""
    each = ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items())
    alone = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name != BLEND)
    return f"weights {each}: ndcg@{_AT} {metrics[BLEND]:.4f} (alone: {alone})"


@dataclass(frozen=True)
class _Table:
    """The scores of some candidates of each case by each part: float32 (cases, candidates, parts), short cases padded.

    is_there bool (cases, candidates). found int64 (2, hits): case and column of those that are to be found. n_relevant
    int64 (cases,): how many there are, listed or not.
    """

    names: tuple[str, ...]
    scores: NDArray[np.float32]
    is_there: NDArray[np.bool_]
    found: NDArray[np.int64]
    n_relevant: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Mapping[str, Recommender], cases: Cases, depth: int = _DEPTH) -> _Table:
        """Ask each part alone for its best, then for its scores of what all of them found."""
        rows, columns, hits = [], [], []
        for number, evidence in enumerate(cases.evidence):
            out = cases.excluded_rows(number)
            user = -1 if cases.users is None else int(cases.users[number])
            queries = [part.query(evidence, cases.kind, user=user) for part in parts.values()]
            best = [
                part.search([query], min(depth, part.n_items), [out], None)[0]
                for part, query in zip(parts.values(), queries, strict=True)
            ]
            candidates = np.unique(np.concatenate([of_part[scores != 0] for of_part, scores in best]))
            asked = zip(parts.values(), queries, strict=True)
            columns.append(np.stack([part.scores(query, candidates) for part, query in asked], axis=1))
            rows.append(candidates)
            places = np.flatnonzero(np.isin(candidates, cases.held_out.items[number]))
            hits.append(np.stack([np.full(len(places), number), places]))
        most = max(1, *(len(each) for each in rows)) if rows else 1
        table = np.zeros((len(rows), most, len(parts)), dtype=np.float32)
        is_there = np.zeros(table.shape[:2], dtype=np.bool_)
        for number, of_case in enumerate(columns):
            table[number, : len(of_case)] = of_case
            is_there[number, : len(of_case)] = True
        found = np.concatenate([np.empty((2, 0), dtype=np.int64), *hits], axis=1).astype(np.int64)
        return cls(tuple(parts), table, is_there, found, cases.held_out.n_relevant)

    def scales(self) -> dict[str, float]:
        """The root mean square of each part's scores; 1 where it has none."""
        present = self.scores[self.is_there].astype(np.float64)
        means = np.sqrt(np.mean(present**2, axis=0)) if len(present) else np.zeros(len(self.names))
        return {name: float(mean) or 1.0 for name, mean in zip(self.names, means, strict=True)}

    def ndcg(self, weights: Mapping[str, float]) -> NDArray[np.float64]:
        """ndcg@20 of each case, float64 (cases,), by the weighted sum of the scores. What ties is placed above.

        What none of the weighted parts scores is not found, though others brought it.
        """
        by_name = np.array([weights.get(name, 0.0) for name in self.names], dtype=np.float32)
        sums = np.where(self.is_there, self.scores @ by_name, np.float32(-np.inf))
        cases, columns = self.found
        reached = sums[cases, columns]
        places = np.count_nonzero(sums[cases] >= reached[:, np.newaxis], axis=1)
        discounts = 1 / np.log2(np.arange(2, _AT + 2))
        gained = np.where((places <= _AT) & (reached != 0), discounts[np.minimum(places, _AT) - 1], 0.0)
        ideal = np.cumsum(discounts)[np.clip(self.n_relevant, 1, _AT) - 1]
        gains: NDArray[np.float64] = np.bincount(cases, gained, minlength=len(sums)) / ideal
        return gains
