"""From interactions to the parts of a recommender, whichever model is asked for.

Vectors alone are trained and that is all. Other models first learn from a part of the events, find what each part
counts with the rest (trainer.validation, trainer.blending), and then learn from everything those parts that count.
Checked by tests/test_models.py.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.evidence import OLDEST
from trainer import als
from trainer.blending import Setting, equal_settings, find_settings, with_settings
from trainer.errors import EvaluationError, NothingLeft
from trainer.interactions import Interactions
from trainer.learned import Learned
from trainer.model_options import ALS, NEIGHBOURS, PARTS_OF, REGRESSION, ModelOptions
from trainer.options import AlsOptions
from trainer.pruning import UNPRUNED, Pruning, choose_pruning, pruned
from trainer.sparse_models import learn_parts
from trainer.validation import AUTO, NONE, histories_of, rule_for, validation_of

if TYPE_CHECKING:
    from trainer.als import Embeddings
    from trainer.options import LearnOptions
    from trainer.splits import Split

_NEIGHBOURS = 100
"""Of an item, where nothing was held out to choose by."""
_OF_VECTORS = (
    "recall", "factory", "search_parameters", "index_seconds", "checkpoint", "early_stopping", "warm_start", "vectors",
)  # fmt: skip
_SCALED_USERS = 200
"""With so many histories the sizes of the parts' scores are found, where nothing was held out."""
_log = logging.getLogger("nearcart")

Say = Callable[[str], None]


def learn(
    interactions: Interactions,
    options: LearnOptions,
    vectors: Callable[[], Embeddings],
    cut: Callable[[str], Split],
    on_step: Say,
) -> Learned:
    """What a training publishes; `vectors` trains the dense part on all of the interactions, where it is one.

    `cut` splits the events behind the interactions by a rule. Raises NearcartError.
    """
    names = PARTS_OF[options.model]
    if names == (ALS,):
        return Learned(vectors())
    found = _validated(interactions, options, cut, on_step)
    if found is not None:
        names = tuple(name for name in names if name in found.settings)
    neighbours = dict.fromkeys((name for name in names if name != ALS), options.neighbours or _NEIGHBOURS)
    if found is not None:
        neighbours |= {name: each.neighbours for name, each in found.prunings.items() if name in neighbours}
    embeddings = vectors() if ALS in names else None
    learned = Learned(embeddings, learn_parts(interactions, options, neighbours, options.threads, on_step))
    if found is None:
        try:
            cases = histories_of(interactions, most=_SCALED_USERS, seed=options.seed)
        except EvaluationError:
            raise NothingLeft(f"--model {options.model}: nobody likes anything, so nothing goes together") from None
        return _with_ages(with_settings(learned, equal_settings(learned, cases)), interactions, {})
    sparse = tuple(
        replace(part, told=found.prunings[part.name].told) if part.name in found.prunings else part
        for part in learned.sparse
    )
    learned = with_settings(replace(learned, sparse=sparse), found.settings)
    return _with_ages(learned, interactions, found.told)


@dataclass(frozen=True)
class _Validated:
    """What held-out cases said: of each part that counts its setting, and of memories of neighbours their pruning.

    `told` are the manifest's metrics.
    """

    settings: Mapping[str, Setting]
    prunings: Mapping[str, Pruning]
    told: Mapping[str, Any]


def _validated(
    interactions: Interactions, options: LearnOptions, cut: Callable[[str], Split], on_step: Say
) -> _Validated | None:
    """None where there is nothing to find it with, which is said."""
    if options.validation == NONE:
        return None
    rule = rule_for(interactions) if options.validation == AUTO else options.validation
    on_step(f"finding what each part counts: holding out {rule}")
    try:
        split = cut(rule)
    except NothingLeft as error:
        if options.validation != AUTO:
            raise
        on_step(f"all parts count alike: {str(error).splitlines()[0]}")
        return None
    validation = validation_of(split, most=options.validation_cases, seed=options.seed)
    if not validation.cases:
        on_step("all parts count alike: nothing that was held out can be asked for")
        return None
    names = PARTS_OF[options.model]
    embeddings = als.train(split.train, options.als()) if ALS in names else None
    neighbours = dict.fromkeys((name for name in names if name != ALS), UNPRUNED)
    sparse, prunings = [], {}
    for part in learn_parts(split.train, options, neighbours, options.threads):
        if part.name in (REGRESSION, NEIGHBOURS):
            pruning = prunings[part.name] = choose_pruning(part, validation.cases[0], options.neighbours)
            on_step(f"{part.name}: {pruning.neighbours} neighbours find {pruning.recall:.3f} of the best of {UNPRUNED}")
            part = replace(part, memory=pruned(part.memory, pruning.neighbours))
        sparse.append(part)
    found = find_settings(Learned(embeddings, tuple(sparse)), validation.cases, validation.repeats, on_step)
    told = {"held_out": rule, "validation": found.metrics, "validation_errors": found.errors}
    return _Validated(found.settings, prunings, told)


def _with_ages(learned: Learned, interactions: Interactions, metrics: Mapping[str, Any]) -> Learned:
    """With the ages of all entries, where an encoder asks for them."""
    forgets = any(any(part.encoder.recency) for part in learned.sparse)
    ages = np.minimum(interactions.ages(), OLDEST).astype(np.uint16) if forgets else None
    return Learned(learned.embeddings, learned.sparse, learned.dense_weight, ages, metrics)


def warn_of_what_has_no_effect(options: LearnOptions) -> None:
    """In the log: options that were given and are about parts that the model does not have."""
    others: tuple[str, ...] = ()
    if options.model == ALS:
        others = tuple(field.name for field in dataclasses.fields(ModelOptions) if field.name != "model")
    elif ALS not in PARTS_OF[options.model]:
        others = (*_OF_VECTORS, *(f.name for f in dataclasses.fields(AlsOptions) if f.name not in ("seed", "threads")))
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    changed = [
        f"--{name.replace('_', '-')}"
        for name in others
        if name in defaults and getattr(options, name) != defaults[name]
    ]
    if changed:
        _log.warning("without effect with --model %s: %s", options.model, ", ".join(changed))
