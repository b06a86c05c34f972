"""The contenders of benchmarks.quality, behind one seam: tuned on some weeks, then fitted once.

Each has the same number of trials from the same seed, and the same aim. Nearcart is searched by what `nearcart tune`
runs; the rivals by Optuna's TPE, which tries the library's own defaults first, as Nearcart's search does with its own.
Both ALS are measured after every epoch, keep their best number of them and stop trials that fall behind by one rule;
they are offered the same weightings and numbers of factors, and fold users and carts in exactly, against the last
items. How each scores is benchmarks.quality_models'. Checked by tests/test_quality_benchmark.py.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_args

import numpy as np
import optuna
from optuna.trial import TrialState
from threadpoolctl import threadpool_limits

from benchmarks.held_out_weeks import Model, Weeks
from benchmarks.quality_models import ImplicitModel, NeighbourModel, PopularModel, VectorModel, matrix_of, similarity_of
from trainer.als import train
from trainer.interactions import Interactions
from trainer.options import AlsOptions
from trainer.trials import Plan, Tried, ranked
from trainer.tuning import search
from trainer.weighting import Weighting

WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)
_ALONE = ("binary", "count", "log")
"""Weightings of entries for item-KNN, whose similarities bring TF-IDF and BM25 of their own."""

Setting = dict[str, Any]
TrainUnder = Callable[[Weighting], Interactions]


@dataclass(frozen=True)
class Budget:
    trials: int
    factors: tuple[int, ...]
    epochs: int
    seed: int


@dataclass(frozen=True)
class Trial:
    """`aim` is the number on the validation weeks; of a trial that was stopped early, the best until then."""

    setting: Setting
    aim: float
    complete: bool = True


class Contender(Protocol):
    name: str
    library: str
    """What must be installed."""

    def tune(self, validation: Weeks, budget: Budget) -> list[Trial]: ...

    def fit(self, train_under: TrainUnder, setting: Setting, seed: int) -> Model: ...


def best_of(trials: Sequence[Trial]) -> Trial:
    return max((trial for trial in trials if trial.complete), key=lambda trial: trial.aim)


class Named(Protocol):
    name: str
    library: str


NamedContender = TypeVar("NamedContender", bound=Named)


def is_installed(contender: Named) -> bool:
    return importlib.util.find_spec(contender.library) is not None


def installed(contenders: Sequence[NamedContender]) -> list[NamedContender]:
    """Those whose library is there; the others are named."""
    for contender in contenders:
        if not is_installed(contender):
            print(f"{contender.library} is absent, so {contender.name} is not compared")
    return [contender for contender in contenders if is_installed(contender)]


class Nearcart:
    name, library = "nearcart", "trainer"

    def tune(self, validation: Weeks, budget: Budget) -> list[Trial]:
        """A third of the trials go to the longer vectors, around the best of the shortest."""
        longer = len(budget.factors) - 1
        refine = budget.trials // 3 // longer if longer else 0
        plan = Plan(
            factors=budget.factors,
            weightings=WEIGHTINGS,
            trials=budget.trials - refine * longer,
            refine_trials=refine,
            epochs=budget.epochs,
            seed=budget.seed,
        )
        with tempfile.TemporaryDirectory() as directory:
            tried = list(search(validation.experiment, plan, Path(directory) / "journal.jsonl", {}))
        first = ranked(tried)[0]
        # Of equal ones the search prefers the cheaper, so its best comes first.
        return [of_tried(each) for each in [first, *(each for each in tried if each is not first)]]

    def fit(self, train_under: TrainUnder, setting: Setting, seed: int) -> Model:
        options = {name: value for name, value in setting.items() if name != "weighting"}
        return VectorModel(train(train_under(setting["weighting"]), AlsOptions(**options, seed=seed)))


class Popular:
    name, library = "popular", "trainer"

    def tune(self, validation: Weeks, budget: Budget) -> list[Trial]:
        """Nothing to tune: one trial says where it stands."""
        return [Trial({}, validation.aim(self.fit(validation.train_under, {}, budget.seed)))]

    def fit(self, train_under: TrainUnder, setting: Setting, seed: int) -> Model:
        return PopularModel(train_under("count").popularity().astype(np.float32))


class ItemKnn:
    """implicit's item-item recommenders, with BM25's two constants at their defaults."""

    name, library = "item-knn", "implicit"

    def tune(self, validation: Weeks, budget: Budget) -> list[Trial]:
        def measured(trial: optuna.Trial) -> Trial:
            setting = {
                "similarity": trial.suggest_categorical("similarity", ["cosine", "tfidf", "bm25"]),
                "neighbours": trial.suggest_int("neighbours", 5, 1000, log=True),
                "weighting": trial.suggest_categorical("weighting", _ALONE),
            }
            return Trial(setting, validation.aim(self.fit(validation.train_under, setting, budget.seed)))

        return optimized(measured, {"similarity": "cosine", "neighbours": 20, "weighting": "count"}, budget)

    def fit(self, train_under: TrainUnder, setting: Setting, seed: int) -> Model:
        histories = matrix_of(train_under(setting["weighting"]).by_user)
        return NeighbourModel(histories, similarity_of(histories, setting))


class ImplicitAls:
    name, library = "implicit-als", "implicit"

    def tune(self, validation: Weeks, budget: Budget) -> list[Trial]:
        def measured(trial: optuna.Trial) -> Trial:
            setting = {
                "factors": trial.suggest_categorical("factors", budget.factors),
                "regularization": trial.suggest_float("regularization", 0.01, 100, log=True),
                "alpha": trial.suggest_float("alpha", 1, 100, log=True),
                "weighting": trial.suggest_categorical("weighting", WEIGHTINGS),
                "iterations": budget.epochs,
            }
            by_epoch: list[float] = []

            def tell(model: Model) -> None:
                by_epoch.append(validation.aim(model))
                trial.report(by_epoch[-1], len(by_epoch))
                if len(by_epoch) < budget.epochs and trial.should_prune():
                    raise optuna.TrialPruned

            stopped = False
            try:
                self._fit(validation.train_under, setting, budget.seed, tell)
            except optuna.TrialPruned:
                stopped = True
            best = int(np.argmax(by_epoch))
            return Trial({**setting, "iterations": best + 1}, by_epoch[best], not stopped)

        first = {"factors": budget.factors[-1], "regularization": 0.01, "alpha": 1.0, "weighting": "count"}
        return optimized(measured, first, budget)

    def fit(self, train_under: TrainUnder, setting: Setting, seed: int) -> Model:
        return self._fit(train_under, setting, seed, lambda model: None)

    def _fit(self, train_under: TrainUnder, setting: Setting, seed: int, after_epoch: Callable[[Model], None]) -> Model:
        from implicit.cpu.als import AlternatingLeastSquares

        histories = matrix_of(train_under(setting["weighting"]).by_user)
        options = {name: value for name, value in setting.items() if name != "weighting"}

        def forget_and_tell(*_: Any) -> None:
            model._YtY = None  # what folding in keeps of the items is that of an earlier iteration
            after_epoch(ImplicitModel(model, histories))

        with threadpool_limits(1, "blas"):
            model = AlternatingLeastSquares(**options, random_state=seed)
            model.fit(histories, show_progress=False, callback=forget_and_tell)
        return ImplicitModel(model, histories)


CONTENDERS: tuple[Contender, ...] = (Nearcart(), Popular(), ItemKnn(), ImplicitAls())


def optimized(measured: Callable[[optuna.Trial], Trial], first: Setting, budget: Budget) -> list[Trial]:
    """`trials` proposals of TPE, `first` being the first; the median rule is that of trainer.tuning."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=budget.seed)
    pruner = optuna.pruners.MedianPruner(5, n_warmup_steps=max(2, budget.epochs // 4))
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    study.enqueue_trial(first)
    trials = []
    for _ in range(budget.trials):
        proposal = study.ask()
        trials.append(tried := measured(proposal))
        if tried.complete:
            study.tell(proposal, tried.aim)
        else:
            study.tell(proposal, state=TrialState.PRUNED)
    return trials


def of_tried(tried: Tried) -> Trial:
    setting = {
        "factors": tried.factors,
        "epochs": tried.epochs,
        "regularization": tried.regularization,
        "unobserved_weight": tried.unobserved_weight,
        "regularization_exponent": tried.exponent,
        "weighting": tried.weighting,
    }
    return Trial(setting, float(tried.metric), tried.state == "complete")
