"""The search for good hyper-parameters: on short vectors first, then around the best with longer ones.

On the smallest number of factors everything is searched: lambda, a0, nu and the weighting. Each next number of factors
begins with the best so far and searches lambda and a0 within a factor of three of it, nu and the weighting among those
of the best few (the procedure of Rendle et al. 2021, appendix, and of irspack). Optuna proposes (TPE) and stops early
what falls behind (the median rule); its journal in the output directory is the state, so that a search that was
interrupted goes on. What a trial is and how it is measured is the experiment's (trainer.experiment); tables, plots and
files are trainer.tuning_report's. Checked by tests/test_tuning.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from trainer.errors import TrainingDiverged
from trainer.journal import opened, require_same, run_again
from trainer.options import AlsOptions
from trainer.trials import EXPONENT_STEP, Experiment, Plan, Space, Tried, first_space, next_space, ranked
from trainer.weighting import Weighting

_STARTUP_TRIALS = 5
"""Trials that are never stopped early, and make the first medians."""
_TELL_SECONDS = 10.0


def search(
    experiment: Experiment,
    plan: Plan,
    journal: Path,
    identity: Mapping[str, Any],
    step: Callable[[str], None] = lambda text: None,
) -> Iterator[Tried]:
    """Every trial as it ends, those that the journal knows first; `step` is told about the new ones, in words.

    Each trial draws from the plan's seed, its place, and the trials before, so that a search that was interrupted and
    goes on tries what it would have tried. The trial that was running is run again.

    Raises UsageError where the journal is of a search with another `identity`, or in use; TrainingDiverged where no
    trial on the first number of factors came to its end.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    so_far: list[Tried] = []
    with opened(journal) as storage:
        for name in optuna.get_all_study_names(storage):
            require_same(optuna.load_study(study_name=name, storage=storage), identity, journal)
        for factors in plan.factors:
            study = optuna.create_study(
                storage=storage, study_name=f"{factors} factors", direction="maximize", load_if_exists=True
            )
            require_same(study, identity, journal)
            space = _space(study, plan, experiment, so_far)
            run_again(study)
            n_trials = plan.refine_trials if so_far else plan.trials
            earlier = _over(study, factors)
            so_far += earlier
            yield from earlier
            if earlier:
                step(f"{factors} factors: {len(earlier)} of {n_trials} trials are there already")
            for place in range(len(earlier) + 1, n_trials + 1):
                tried = _try(study, experiment, plan, factors, space, place, step)
                so_far.append(tried)
                step(f"{factors} factors, trial {place} of {n_trials}: {tried.told}; {_best_of(so_far)}")
                yield tried
            if not ranked(so_far):
                raise TrainingDiverged(
                    f"none of {len(so_far)} trials with {factors} factors came to its end; weights of events should "
                    "be of the order of 1: see --event-weights, or leave weightings away with --weighting"
                )


def _space(study: optuna.Study, plan: Plan, experiment: Experiment, so_far: Sequence[Tried]) -> Space:
    """What the study searches, which is decided once; then its first trial is enqueued: the best so far or defaults."""
    if "space" in study.user_attrs:
        return Space(**{name: tuple(values) for name, values in study.user_attrs["space"].items()})
    if so_far:
        best = ranked(so_far)
        space = next_space(best)
        names = ("strength", "unobserved_weight", "exponent", "weighting")
        first = {name: getattr(best[0], name) for name in names}
    else:
        space, defaults = first_space(plan, experiment), AlsOptions()
        first = {
            "strength": defaults.regularization,
            "unobserved_weight": experiment.default_unobserved_weight(),
            "exponent": defaults.regularization_exponent,
            "weighting": "log" if "log" in plan.weightings else plan.weightings[0],
        }
    study.enqueue_trial(first, skip_if_exists=True)
    study.set_user_attr("space", asdict(space))
    return space


def _over(study: optuna.Study, factors: int) -> list[Tried]:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return [_tried(trial, factors, place) for place, trial in enumerate(trials, start=1)]


def _try(
    study: optuna.Study,
    experiment: Experiment,
    plan: Plan,
    factors: int,
    space: Space,
    place: int,
    step: Callable[[str], None],
) -> Tried:
    seed = int(np.random.SeedSequence([plan.seed, factors, place]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    study.pruner = optuna.pruners.MedianPruner(_STARTUP_TRIALS, n_warmup_steps=max(2, plan.epochs // 4))
    trial = study.ask()
    options, weighting = _drawn(trial, experiment, plan, factors, space)
    by_epoch: list[float] = []
    seconds: list[float] = []
    told = time.monotonic()

    def on_epoch(epoch: int, metric: float, epoch_seconds: float) -> None:
        nonlocal told
        by_epoch.append(metric)
        seconds.append(epoch_seconds)
        trial.report(metric, epoch)
        if time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            step(f"{factors} factors, trial {place}: {metric:.4f} after epoch {epoch} of {plan.epochs}")
        if epoch < plan.epochs and trial.should_prune():
            raise optuna.TrialPruned

    state = TrialState.PRUNED
    try:
        experiment.run(options, weighting, on_epoch)
        state = TrialState.COMPLETE
    except optuna.TrialPruned:
        pass
    except TrainingDiverged as error:
        trial.set_user_attr("diverged", str(error))
    trial.set_user_attr("seconds", seconds)
    value = max(by_epoch) if state == TrialState.COMPLETE else None
    return _tried(study.tell(trial, value, state), factors, place)


def _drawn(
    trial: Trial, experiment: Experiment, plan: Plan, factors: int, space: Space
) -> tuple[AlsOptions, Weighting]:
    """What the trial trains with. Numbers are rounded first, so that what is measured is what best.toml says."""
    weighting = cast(Weighting, trial.suggest_categorical("weighting", space.weightings))
    strength = trial.suggest_float("strength", *space.strength, log=True)
    unobserved_weight = _rounded(trial.suggest_float("unobserved_weight", *space.unobserved_weight, log=True))
    exponent = trial.suggest_float("exponent", *space.exponent, step=EXPONENT_STEP)
    regularization = _rounded(experiment.regularization(strength, unobserved_weight, exponent))
    trial.set_user_attr("regularization", regularization)
    options = AlsOptions(
        factors=factors,
        epochs=plan.epochs,
        regularization=regularization,
        unobserved_weight=unobserved_weight,
        regularization_exponent=exponent,
        seed=plan.seed,
        threads=plan.threads,
    )
    return options, weighting


def _tried(trial: FrozenTrial, factors: int, place: int) -> Tried:
    diverged = "diverged" in trial.user_attrs
    return Tried(
        factors=factors,
        number=place,
        state="diverged" if diverged else trial.state.name.lower(),
        weighting=trial.params["weighting"],
        strength=trial.params["strength"],
        regularization=trial.user_attrs["regularization"],
        unobserved_weight=_rounded(trial.params["unobserved_weight"]),
        exponent=trial.params["exponent"],
        by_epoch=tuple(trial.intermediate_values[epoch] for epoch in sorted(trial.intermediate_values)),
        seconds=tuple(trial.user_attrs["seconds"]),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _best_of(tried: Sequence[Tried]) -> str:
    best = ranked(tried)
    return f"best {best[0].metric:.4f}" if best else "none complete yet"
