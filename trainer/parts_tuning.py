"""The search for the options of parts beside vectors: each part by what it finds alone of carts, or of users.

The first part of a model also finds how contexts are weighed, which the others then take. Optuna proposes (TPE), from
the options' defaults on; its journal in the output directory is the state, as that of trainer.tuning is. What parts
count in their sum is not searched here: every training finds it (trainer.blending). Checked by
tests/test_parts_tuning.py.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import Trial, TrialState

from trainer.blending import best_recency
from trainer.cases import Cases
from trainer.contexts import is_ordered
from trainer.errors import TrainingDiverged
from trainer.interactions import Interactions
from trainer.journal import opened, require_same, run_again
from trainer.model_options import NEIGHBOURS, PARTS_OF, REGRESSION, SESSIONS, ModelOptions
from trainer.sparse_models import contexts_for, default_penalty, default_size_damping, learn_parts

_SEARCHED = (REGRESSION, NEIGHBOURS, SESSIONS)
_NEIGHBOURS = 100
"""Of an item, while searching: a training finds how many are enough."""
_HALF_LIVES = (None, 30.0, 60.0, 120.0, 240.0, 480.0)
_HISTORY_WEIGHTS = (0.0, 0.03, 0.3, 1.0)
_DEFAULTS = ModelOptions()

Values = dict[str, Any]


@dataclass(frozen=True)
class TriedPart:
    """One trial: the values of options that it tried, and ndcg@20 of the part alone; NaN where it diverged."""

    part: str
    number: int
    values: Mapping[str, Any]
    metric: float
    seconds: float


@dataclass(frozen=True)
class Shop:
    """What is learned from, what is to be found, and what can be searched with such events."""

    train: Interactions
    cases: Cases
    has_times: bool
    has_baskets: bool
    is_ordered: bool
    size_damping: float
    penalty: float
    """These two where nothing else is said."""

    @classmethod
    def of(cls, train: Interactions, cases: Cases) -> Shop:
        """Look at the events."""
        contexts = contexts_for(train, _DEFAULTS)
        return cls(
            train,
            cases,
            has_times=not bool(np.isnan(train.last_times).all()),
            has_baskets=bool(train.baskets),
            is_ordered=is_ordered(contexts),
            size_damping=default_size_damping(contexts),
            penalty=default_penalty(train, _DEFAULTS),
        )


def search_parts(
    shop: Shop,
    model: str,
    trials: int,
    journal: Path,
    identity: Mapping[str, Any],
    *,
    seed: int = 42,
    threads: int = 0,
    step: Callable[[str], None] = lambda text: None,
) -> Iterator[TriedPart]:
    """Every trial as it ends, those that the journal knows first. Raises UsageError as trainer.tuning.search does."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: Values = {}
    with opened(journal) as storage:
        for number, part in enumerate(name for name in _SEARCHED if name in PARTS_OF[model]):
            space = _space(part, shop, with_contexts=number == 0)
            if not space:
                continue
            study = optuna.create_study(storage=storage, study_name=part, direction="maximize", load_if_exists=True)
            require_same(study, identity, journal)
            defaults = dataclasses.replace(_DEFAULTS, size_damping=shop.size_damping, penalty=shop.penalty)
            study.enqueue_trial({name: getattr(defaults, name) for name in space}, skip_if_exists=True)
            run_again(study)
            tried = _ended(study, part)
            yield from tried
            for place in range(len(tried) + 1, trials + 1):
                study.sampler = optuna.samplers.TPESampler(
                    seed=int(np.random.SeedSequence([seed, number, place]).generate_state(1)[0])
                )
                each = _try(study, part, space, found, shop, place, threads)
                tried.append(each)
                best = max(tried, key=_rank)
                told = ", ".join(f"{name} {value}" for name, value in each.values.items())
                step(f"{part}, trial {place} of {trials}: {each.metric:.4f} ({told}); best {best.metric:.4f}")
                yield each
            found |= max(tried, key=_rank).values


def best_options(tried: list[TriedPart]) -> Values:
    """The values of the best trial of each part; the first part decides where two name an option."""
    values: Values = {}
    for part in dict.fromkeys(each.part for each in tried):
        best = max((each for each in tried if each.part == part), key=_rank)
        values = {**best.values, **values}
    return values


def _rank(tried: TriedPart) -> float:
    return -np.inf if np.isnan(tried.metric) else tried.metric


def _space(part: str, shop: Shop, *, with_contexts: bool) -> dict[str, Callable[[Trial], Any]]:
    """How each option that is searched is drawn, by name."""
    space: dict[str, Callable[[Trial], Any]] = {}
    if with_contexts:
        space["size_damping"] = lambda trial: round(trial.suggest_float("size_damping", 0.0, 1.2, step=0.1), 1)
        if shop.has_times:
            space["context_half_life_days"] = lambda trial: trial.suggest_categorical(
                "context_half_life_days", _HALF_LIVES
            )
        if shop.has_baskets:
            space["history_weight"] = lambda trial: trial.suggest_categorical("history_weight", _HISTORY_WEIGHTS)
    if part == REGRESSION:
        space["penalty"] = lambda trial: float(f"{trial.suggest_float('penalty', 0.03, 30.0, log=True):.3g}")
        space["predictors"] = lambda trial: trial.suggest_categorical("predictors", (50, 100, 200))
    if part == NEIGHBOURS and shop.is_ordered:
        space["distance_damping"] = lambda trial: round(trial.suggest_float("distance_damping", 0.0, 1.5, step=0.1), 1)
        space["backward_weight"] = lambda trial: round(trial.suggest_float("backward_weight", 0.0, 1.2, step=0.1), 1)
    if part == SESSIONS:
        space["nearest_sessions"] = lambda trial: trial.suggest_int("nearest_sessions", 30, 3000, log=True)
    return space


def _try(
    study: optuna.Study,
    part: str,
    space: Mapping[str, Callable[[Trial], Any]],
    found: Values,
    shop: Shop,
    place: int,
    threads: int,
) -> TriedPart:
    trial, started = study.ask(), time.monotonic()
    values = {name: draw(trial) for name, draw in space.items()}
    trial.set_user_attr("values", values)
    options = dataclasses.replace(_DEFAULTS, **{**found, **values})
    try:
        (learned,) = learn_parts(shop.train, options, {part: _NEIGHBOURS}, threads)
        metric = best_recency(learned, shop.cases).metric
    except TrainingDiverged:
        metric = float("nan")
    seconds = time.monotonic() - started
    trial.set_user_attr("seconds", seconds)
    diverged = np.isnan(metric)
    study.tell(trial, None if diverged else metric, TrialState.FAIL if diverged else TrialState.COMPLETE)
    return TriedPart(part, place, values, metric, seconds)


def _ended(study: optuna.Study, part: str) -> list[TriedPart]:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [
        TriedPart(part, place, trial.user_attrs["values"], float(trial.values[0]), trial.user_attrs["seconds"])
        for place, trial in enumerate(trials, start=1)
    ]
