"""The contenders of benchmarks.carts: each is tuned for the hidden items of validation carts, then fitted once.

The same seam as benchmarks.contenders, whose budget, trials and sampler these use: the same number of trials from the
same seed, the first one with the library's or the project's defaults. A cart's items weigh 1, and nobody knows whose
cart it is. Checked by tests/test_parts_benchmarks.py.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import optuna

from benchmarks.asked import Asked, learn, one_to_find, parts_of, settings_of, weigh
from benchmarks.cart_models import FoldedCarts, PartsModel, RuleModel, bags_of, rules_of
from benchmarks.contenders import WEIGHTINGS, Budget, Nearcart, Setting, TrainUnder, Trial, of_tried, optimized
from benchmarks.held_out_weeks import OF_CARTS, CartModel, Weeks
from benchmarks.made_sets import interactions_of
from benchmarks.quality_models import NeighbourModel, VectorModel, similarity_of
from engine.evidence import Evidence
from trainer import als
from trainer.blending import with_settings
from trainer.cleaning import Cleaning
from trainer.experiment import EventsExperiment
from trainer.half_epoch import Penalty
from trainer.interactions import Csr, Interactions
from trainer.item_neighbours import Similarity
from trainer.learned import Learned
from trainer.metrics import measure
from trainer.model_options import BLEND, PARTS_OF, ModelOptions
from trainer.options import AlsOptions
from trainer.splits import Split
from trainer.trials import OnEpoch, Plan, ranked
from trainer.tuning import search
from trainer.weighting import Weighting

AIM = OF_CARTS[0].name


class Contender(Protocol):
    name: str
    library: str
    """What must be installed."""

    def tune(self, validation: Weeks, budget: Budget) -> list[Trial]: ...

    def fit(self, train_under: TrainUnder, setting: Setting, seed: int) -> CartModel: ...


def aim(weeks: Weeks, model: CartModel) -> float:
    """The number that tuning raises: the share of carts whose hidden item is among the ten best."""
    return measure(OF_CARTS, weeks.cart_ranking(model)).means[AIM]


class Ials(Nearcart):
    """Our vectors alone, of users and items, searched as `nearcart tune` searches, but for carts."""

    name = "ials"

    def experiment(self, weeks: Weeks) -> EventsExperiment:
        """What weighs the entries that are learned from."""
        return weeks.experiment

    def tune(self, validation: Weeks, budget: Budget) -> list[Trial]:
        """All trials by the shortest vectors but a third, which refine them with each longer number of factors."""
        longer = len(budget.factors) - 1
        refine = budget.trials // 3 // longer if longer else 0
        trials = budget.trials - refine * longer
        plan = Plan(budget.factors, WEIGHTINGS, trials, refine, budget.epochs, budget.seed)
        with tempfile.TemporaryDirectory() as directory:
            tried = list(
                search(_OfCarts(validation, self.experiment(validation)), plan, Path(directory) / "journal.jsonl", {})
            )
        first = ranked(tried)[0]
        return [of_tried(each) for each in [first, *(each for each in tried if each is not first)]]


class IalsOfBaskets(Ials):
    """The same of baskets and items: a basket is the user, and a cart one that is folded in."""

    name = "ials-baskets"

    def experiment(self, weeks: Weeks) -> EventsExperiment:
        return _baskets_as_users(weeks.train_under("log"))

    def fit(self, train_under: TrainUnder, setting: Setting, seed: int) -> VectorModel:
        experiment = _baskets_as_users(train_under("log"))
        return super().fit(lambda weighting: experiment.weighed(weighting).train, setting, seed)


def _baskets_as_users(train: Interactions) -> EventsExperiment:
    """An experiment for its weightings: what it holds out is not asked for."""
    bags = bags_of(train, "baskets")
    entries = Csr(bags.indptr.astype(np.int64), bags.indices, bags.data, n_columns=train.n_items)
    baskets = interactions_of(entries)
    split = Split(baskets, None, baskets, baskets.report)
    return EventsExperiment(lambda weighting: split, Cleaning(), OF_CARTS[0])


@dataclass(frozen=True)
class _OfCarts:
    """A trainer.trials.Experiment that measures carts."""

    weeks: Weeks
    experiment: EventsExperiment

    def default_unobserved_weight(self) -> float:
        return self.experiment.default_unobserved_weight()

    def regularization(self, strength: float, unobserved_weight: float, exponent: float) -> float:
        return self.experiment.regularization(strength, unobserved_weight, exponent)

    def run(self, options: AlsOptions, weighting: Weighting, on_epoch: OnEpoch) -> None:
        train = self.experiment.weighed(weighting).train
        unobserved_weight = options.unobserved_weight_for(train.n_users, train.n_items, train.n_entries)
        penalty = Penalty(unobserved_weight, options.regularization, options.regularization_exponent)

        def measured(epoch: als.Epoch) -> None:
            on_epoch(epoch.epoch, aim(self.weeks, FoldedCarts(epoch.item_vectors, penalty)), epoch.seconds)

        als.train(train, options, on_epoch=measured)


class ItemKnn:
    """implicit's item-item recommenders, over baskets or over the users' histories."""

    name, library = "item-knn", "implicit"

    def tune(self, validation: Weeks, budget: Budget) -> list[Trial]:
        def measured(trial: optuna.Trial) -> Trial:
            setting: Setting = {
                "over": trial.suggest_categorical("over", ["baskets", "histories"]),
                "similarity": trial.suggest_categorical("similarity", ["cosine", "tfidf", "bm25"]),
                "neighbours": trial.suggest_int("neighbours", 5, 1000, log=True),
            }
            if setting["similarity"] == "bm25":
                setting["K1"] = trial.suggest_float("K1", 0.1, 100, log=True)
                setting["B"] = trial.suggest_float("B", 0, 1)
            return Trial(setting, aim(validation, self.fit(validation.train_under, setting, budget.seed)))

        return optimized(measured, {"over": "baskets", "similarity": "cosine", "neighbours": 20}, budget)

    def fit(self, train_under: TrainUnder, setting: Setting, seed: int) -> CartModel:
        bags = bags_of(train_under("log"), setting["over"])
        return NeighbourModel(bags, similarity_of(bags, setting))


class Rules:
    """Association rules of pairs of items in a basket, each cart item's weights added up or the strongest taken."""

    name, library = "rules", "trainer"

    def tune(self, validation: Weeks, budget: Budget) -> list[Trial]:
        train = validation.train_under("log")

        def measured(trial: optuna.Trial) -> Trial:
            setting = {
                "measure": trial.suggest_categorical("measure", list(get_args(Similarity))),
                "least_count": trial.suggest_int("least_count", 2, 10, log=True),
                "sum_or_max": trial.suggest_categorical("sum_or_max", ["sum", "max"]),
                "rules": trial.suggest_int("rules", 5, 1000, log=True),
            }
            return Trial(setting, aim(validation, RuleModel.of(rules, train.n_items, setting)))

        rules = rules_of(train)
        return optimized(
            measured, {"measure": "confidence", "least_count": 5, "sum_or_max": "sum", "rules": 100}, budget
        )

    def fit(self, train_under: TrainUnder, setting: Setting, seed: int) -> CartModel:
        train = train_under("log")
        return RuleModel.of(rules_of(train), train.n_items, setting)


class Blend:
    """What `nearcart train --model blend` publishes: parts weighed on the validation carts, vectors by the defaults."""

    name, library = "blend", "trainer"
    model = BLEND

    def tune(self, validation: Weeks, budget: Budget) -> list[Trial]:
        train, carts = validation.train_under("log"), validation.carts
        shown = [Evidence.of_rows(cart) for cart in carts.shown]
        asked = Asked(train, one_to_find("cart", shown, np.array(carts.hidden), train.n_items, may_return=False))
        vectors = Learned(als.train(train, AlsOptions(seed=budget.seed)))

        def tried(setting: Setting) -> Trial:
            learned = learn(train, PARTS_OF[self.model], ModelOptions(**setting), lambda: vectors)
            found = weigh(learned, asked)
            model = PartsModel(with_settings(learned, found.settings), train.n_items)
            return Trial({**setting, "parts": parts_of(found, "cart")}, aim(validation, model))

        return self.trials(tried, budget)

    def trials(self, tried: Any, budget: Budget) -> list[Trial]:
        return optimized(lambda trial: tried(proposed(trial)), DEFAULTS, budget)

    def fit(self, train_under: TrainUnder, setting: Setting, seed: int) -> CartModel:
        train = train_under("log")
        options = ModelOptions(**{name: value for name, value in setting.items() if name != "parts"})
        learned = learn(
            train, list(setting["parts"]), options, lambda: Learned(als.train(train, AlsOptions(seed=seed)))
        )
        return PartsModel(with_settings(learned, settings_of(setting["parts"])), train.n_items)


class DefaultBlend(Blend):
    """The same with every option at its default: only the weights are found."""

    name = "blend-default"

    def trials(self, tried: Any, budget: Budget) -> list[Trial]:
        return [tried({})]


DEFAULTS: Setting = {
    "penalty": 1.0,
    "predictors": 100,
    "size_damping": 0.5,
    "half_life": "none",
    "nearest_sessions": 300,
}


def proposed(trial: optuna.Trial) -> Setting:
    """Options of trainer.model_options, as keywords."""
    half_life = trial.suggest_categorical("half_life", ["none", "45", "120", "365"])
    return {
        "penalty": trial.suggest_float("penalty", 0.1, 10, log=True),
        "predictors": trial.suggest_int("predictors", 30, 300, log=True),
        "size_damping": trial.suggest_float("size_damping", 0, 1),
        "context_half_life_days": None if half_life == "none" else float(half_life),
        "nearest_sessions": trial.suggest_int("nearest_sessions", 50, 3000, log=True),
    }


CONTENDERS: tuple[Contender, ...] = (Blend(), DefaultBlend(), Ials(), IalsOfBaskets(), ItemKnn(), Rules())
