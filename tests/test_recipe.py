"""What a manifest says of how events are read, and what it must say so that others can be read alike."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from engine.release import Release
from trainer.errors import FoldInImpossible
from trainer.options import TrainOptions
from trainer.recipe import Recipe


def test_a_release_without_its_configuration_is_refused(repository):
    with pytest.raises(
        FoldInImpossible, match=r"does not say how its events were read: .* lacks user_column, item_col"
    ):
        Recipe.of(Release(repository.current_path()))


def release_with(manifest):
    return SimpleNamespace(manifest=manifest, release_id="r")


def configured(**changes):
    values = {field.name: field.default for field in dataclasses.fields(TrainOptions)}
    return release_with({"configuration": {**values, **changes}})


@pytest.mark.parametrize("weighting", ["propensity", "tfidf", "bm25"])
def test_weights_among_all_entries_are_refused(weighting):
    with pytest.raises(FoldInImpossible, match=f"--weighting {weighting}, which weighs each entry among all"):
        Recipe.of(configured(weighting=weighting))


@pytest.mark.parametrize(
    "changes", [{"weighting": "magic"}, {"half_life_days": -1}, {"event_weights": "view"}, {"min_user_items": "many"}]
)
def test_a_configuration_that_cannot_be_used_is_refused(changes):
    with pytest.raises(FoldInImpossible, match="has a configuration that this program cannot read events by"):
        Recipe.of(configured(**changes))


def test_a_recipe_is_the_configuration():
    recipe = Recipe.of(
        configured(weighting="count", half_life_days=7.0, user_column="Kunde", title_column="Text", seed=3)
    )
    assert recipe.events.columns().user == "Kunde"
    assert (recipe.events.cleaning().weighting, recipe.events.cleaning().half_life_days) == ("count", 7.0)
    assert (recipe.title_column, recipe.seed) == ("Text", 3)
