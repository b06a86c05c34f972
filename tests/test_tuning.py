"""The search for hyper-parameters: what it tries, where it goes on, what it measures with, and what it leaves."""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from engine.cli import main
from engine.errors import UsageError
from trainer.als import train
from trainer.cleaning import Cleaning
from trainer.errors import TrainingDiverged
from trainer.evaluate import Scorer, encoded, hold_out, rank_catalogue, seen_items
from trainer.experiment import EventsExperiment
from trainer.metrics import parse_metrics
from trainer.options import AlsOptions
from trainer.splits import Split, read_split
from trainer.trials import Plan, Tried, ranked
from trainer.tuning import search
from trainer.tuning_report import pareto_front, plot_trials, write_best, write_trials
from trainer.weighting import Weighting

PLAN = Plan((8, 16), ("log", "binary", "bm25"), trials=30, refine_trials=6, epochs=4)
IDENTITY = {"events": "some", "metric": "ndcg@20"}
(NDCG,) = parse_metrics("ndcg@5")


class Planted:
    """The metric falls with the distance from a setting far from the defaults, and rises with factors and epochs.

    Calls whose place is in `interrupted` end as if someone pressed Ctrl-C, those in `diverging` diverge.
    """

    def __init__(self, interrupted: tuple[int, ...] = (), diverging: tuple[int, ...] = ()) -> None:
        self.calls = 0
        self.interrupted, self.diverging = interrupted, diverging

    def default_unobserved_weight(self):
        return 0.3

    def regularization(self, strength, unobserved_weight, exponent):
        return strength

    def run(self, options, weighting, on_epoch):
        self.calls += 1
        far = abs(np.log10(options.regularization / 0.03)) + abs(np.log10(options.unobserved_weight / 0.06))
        far += abs(options.regularization_exponent - 0.5) + (weighting != "bm25")
        for epoch in range(1, options.epochs + 1):
            if epoch == 2 and self.calls in self.interrupted:
                raise KeyboardInterrupt
            if epoch == 2 and self.calls in self.diverging:
                raise TrainingDiverged("too far")
            on_epoch(epoch, float(np.exp(-far) * (1 - 0.5**epoch) * options.factors / 16), 0.5)


def searched(experiment, journal: Path, plan: Plan = PLAN, identity=IDENTITY) -> list[Tried]:
    return list(search(experiment, plan, journal / "journal.jsonl", identity))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A whole search on the planted experiment."""
    return searched(Planted(), tmp_path_factory.mktemp("found"))


def matrix(seed: int = 0) -> np.ndarray:
    """Two groups of users, each with items of its own."""
    generator = np.random.default_rng(seed)
    likes = np.kron(np.eye(2), np.full((30, 12), 0.6)) + 0.05
    return (generator.random(likes.shape) < likes) * generator.integers(1, 6, likes.shape).astype(float)


def events_file(path: Path, seed: int = 0) -> Path:
    values = matrix(seed)
    rows = [f"u{u},i{i},{kind}" for u, i in np.argwhere(values) for kind in ["view", "buy"] * int(values[u, i])]
    path.write_text("user_id,item_id,event\n" + "\n".join(rows) + "\n")
    return path


@functools.cache
def parts_of(split: str) -> Split:
    with tempfile.TemporaryDirectory() as folder:
        rules = Cleaning(weighting="count")
        return read_split([str(events_file(Path(folder) / "events.csv"))], split=split, cleaning=rules, threads=1)


def experiment_of(split: str = "random:0.3", **options) -> EventsExperiment:
    parts = parts_of(split)
    return EventsExperiment(lambda weighting: parts, Cleaning(), NDCG, threads=1, **options)


def test_the_first_trial_is_what_training_does_by_default(found):
    first = found[0]
    assert (first.factors, first.strength, first.unobserved_weight, first.exponent) == (8, 0.003, 0.3, 1.0)
    assert first.weighting == "log"


def test_a_planted_region_is_found(found):
    best = ranked(found)[0]
    assert best.weighting == "bm25"
    assert best.metric > 3 * found[0].metric
    assert 0.003 < best.regularization <= 0.1
    assert 0.03 <= best.unobserved_weight < 0.3


def test_without_refining_only_the_fewest_factors_are_tried(tmp_path):
    plan = dataclasses.replace(PLAN, trials=2, refine_trials=0)
    tried = list(search(experiment_of(), plan, tmp_path / "journal.jsonl", IDENTITY, lambda told: None))
    assert [each.factors for each in tried] == [8, 8]


def test_more_factors_begin_with_the_best_of_fewer_and_stay_near_it(found):
    first, rest = [each for each in found if each.factors == 8], [each for each in found if each.factors == 16]
    best = ranked(first)[0]
    assert [rest[0].strength, rest[0].exponent] == [best.strength, best.exponent]
    few = ranked(first)[:3]
    for each in rest:
        assert best.strength / 3.01 <= each.strength <= best.strength * 3.01
        assert best.unobserved_weight / 3.01 <= each.unobserved_weight <= best.unobserved_weight * 3.01
        assert each.weighting in {other.weighting for other in few}
        assert min(other.exponent for other in few) <= each.exponent <= max(other.exponent for other in few)


def test_a_trial_that_falls_behind_is_stopped_and_marked_and_not_ranked(found):
    pruned = [each for each in found if each.state == "pruned"]
    assert pruned
    assert all(len(each.by_epoch) < PLAN.epochs for each in pruned)
    assert not set(pruned) & set(ranked(found))
    assert {each.state for each in found} == {"complete", "pruned"}


def test_the_same_seed_tries_the_same_and_another_something_else(found, tmp_path):
    assert searched(Planted(), tmp_path / "again") == found
    other = dataclasses.replace(PLAN, factors=(8,), trials=3, seed=1)
    assert searched(Planted(), tmp_path / "other", other) != found[:3]


def test_an_interrupted_search_goes_on_with_the_trials_it_had(found, tmp_path):
    done = (0, 7, 3, 12)
    for n_trials in done:
        with pytest.raises(KeyboardInterrupt):
            searched(Planted(interrupted=(n_trials + 1,)), tmp_path)
    experiment = Planted()
    assert searched(experiment, tmp_path) == found
    assert experiment.calls == len(found) - sum(done)


def test_a_search_that_is_killed_goes_on_even_after_half_a_line(found, tmp_path):
    script = (
        "import os, signal, test_tuning as t; from pathlib import Path\n"
        "class Killed(t.Planted):\n"
        "    def run(self, options, weighting, on_epoch):\n"
        "        def told(*given):\n"
        "            on_epoch(*given)\n"
        "            if self.calls == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        super().run(options, weighting, told)\n"
        f"t.searched(Killed(), Path({str(tmp_path)!r}))"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with (tmp_path / "journal.jsonl").open("a") as journal:
        journal.write('{"op_code":')
    experiment = Planted()
    assert searched(experiment, tmp_path) == found
    assert experiment.calls == len(found) - 2


def test_a_trial_that_ended_two_processes_is_left_alone(tmp_path):
    plan = dataclasses.replace(PLAN, factors=(8,), trials=3)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            searched(Planted(interrupted=(1,)), tmp_path, plan)
    found = searched(Planted(), tmp_path, plan)
    assert len(found) == 3
    assert found[0].weighting != "log" or found[0].strength != 0.003


def test_more_trials_may_be_asked_for_later(found, tmp_path):
    assert searched(Planted(), tmp_path, dataclasses.replace(PLAN, factors=(8,), trials=12)) == found[:12]
    assert searched(Planted(), tmp_path) == found


def test_a_diverging_trial_is_marked_and_the_search_goes_on(tmp_path):
    found = searched(Planted(diverging=(1, 3)), tmp_path, dataclasses.replace(PLAN, factors=(8,), trials=4))
    assert [each.state for each in found] == ["diverged", "complete", "diverged", "complete"]
    assert len(found[0].by_epoch) == 1
    with pytest.raises(TrainingDiverged, match="none of 2 trials with 8 factors"):
        searched(Planted(diverging=(1, 2)), tmp_path / "all", dataclasses.replace(PLAN, factors=(8,), trials=2))


def test_a_directory_of_another_search_is_refused(found, tmp_path):
    plan = dataclasses.replace(PLAN, factors=(8,), trials=1)
    searched(Planted(), tmp_path, plan)
    with pytest.raises(UsageError, match="holds a search with other events: give another --output"):
        searched(Planted(), tmp_path, plan, {**IDENTITY, "events": "others"})
    with pytest.raises(UsageError, match="metric 'ndcg@20'; here it is 'hr@5'"):
        searched(Planted(), tmp_path, plan, {**IDENTITY, "metric": "hr@5"})


def test_two_searches_do_not_share_a_directory(tmp_path):
    running = search(Planted(), PLAN, tmp_path / "journal.jsonl", IDENTITY)
    next(running)
    with pytest.raises(UsageError, match="another search is writing"):
        searched(Planted(), tmp_path)
    running.close()


def test_a_damaged_journal_is_refused(tmp_path):
    (tmp_path / "journal.jsonl").write_text("not JSON\nat all\n")
    with pytest.raises(UsageError, match="damaged"):
        searched(Planted(), tmp_path)


@pytest.mark.parametrize(
    ("rules", "split"), [(Cleaning(), "random:0.3"), (Cleaning(event_weights={"view": 0.25}), "users:0.3")]
)
def test_weights_are_those_of_reading_again(tmp_path, rules, split):
    source = str(events_file(tmp_path / "events.csv"))

    def read(weighting: str) -> Split:
        return read_split([source], split=split, cleaning=dataclasses.replace(rules, weighting=weighting), threads=1)

    experiment = EventsExperiment(read, rules, NDCG, threads=1)
    for weighting in get_args(Weighting):
        expected, weighed = read(weighting), experiment.weighed(weighting)
        np.testing.assert_allclose(weighed.train.by_user.values, expected.train.by_user.values, rtol=1e-6)
        np.testing.assert_array_equal(weighed.train.by_item.indices, expected.train.by_item.indices)
        np.testing.assert_allclose(weighed.train.by_item.values, expected.train.by_item.values, rtol=1e-6)
        if expected.history is not None:
            seen = seen_items(expected.train, expected.history)
            rows = hold_out(expected.train, expected.test, expected.history).users
            np.testing.assert_allclose(weighed.seen.row(0)[1], seen.row(int(rows[0]))[1], rtol=1e-6)


@pytest.mark.parametrize("split", ["random:0.3", "users:0.3"])
def test_the_metric_of_an_epoch_is_that_of_a_training_that_ends_there(split):
    experiment, options = experiment_of(split), AlsOptions(factors=4, epochs=3, threads=1, tolerance=0)
    told: list[tuple[int, float, float]] = []
    experiment.run(options, "count", lambda *given: told.append(given))
    assert [epoch for epoch, _, _ in told] == [1, 2, 3]
    parts = experiment.split
    held_out = hold_out(parts.train, parts.test, parts.history)
    seen = parts.train.by_user if parts.history is None else seen_items(parts.train, parts.history)
    for epoch, metric, seconds in told:
        ended = train(parts.train, dataclasses.replace(options, epochs=epoch))
        scorer = Scorer(ended.user_vectors, ended.item_vectors)
        if parts.history is not None:
            scorer = encoded(ended, seen)
        assert metric == pytest.approx(rank_catalogue(scorer, seen, held_out, [NDCG])["ndcg@5"], abs=0.01)
        assert seconds > 0


def test_validation_users_are_drawn_by_the_seed():
    assert experiment_of().n_users > 20
    drawn = [experiment_of(most_users=20, seed=seed) for seed in (1, 1, 2)]
    assert [each.n_users for each in drawn] == [20, 20, 20]
    popularity = [each.popularity() for each in drawn]
    assert popularity[0] == popularity[1] != popularity[2]


def test_a_strength_means_the_same_total_under_every_exponent():
    experiment = experiment_of()
    assert experiment.regularization(0.01, 0.2, 1.0) == pytest.approx(0.01)
    train_part = experiment.split.train
    sizes = (
        np.diff(train_part.by_user.indptr) + 0.2 * train_part.n_items,
        np.diff(train_part.by_item.indptr) + (0.2 * train_part.n_users),
    )
    total = sum((size**0.5).sum() for size in sizes) * experiment.regularization(0.01, 0.2, 0.5)
    assert total == pytest.approx(0.01 * sum(size.sum() for size in sizes))


def tried(metric: float, seconds: float, state: str = "complete") -> Tried:
    return Tried(8, 1, state, "log", 0.01, 0.01, 0.1, 1.0, (metric / 2, metric, metric), (seconds / 2,) * 3)


def test_the_best_number_of_epochs_is_the_first_of_equal_ones():
    assert (tried(0.4, 6.0).epochs, tried(0.4, 6.0).training_seconds, tried(0.4, 6.0).metric) == (2, 6.0, 0.4)


def test_the_front_is_what_nothing_else_beats_in_both():
    trials = [tried(0.3, 2), tried(0.2, 1), tried(0.25, 3), tried(0.4, 9), tried(0.4, 10), tried(0.9, 1, "pruned")]
    assert pareto_front(trials) == [trials[1], trials[0], trials[3]]


def test_all_trials_are_in_the_table_and_a_plot_can_be_drawn_of_any(found, tmp_path):
    write_trials(tmp_path / "trials.csv", found, "ndcg@20")
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == [each.state for each in found]
    assert [float(row["ndcg@20"]) for row in rows] == [each.metric for each in found]
    for trials in (found, [tried(0.1, 1e-3), dataclasses.replace(tried(0, 0, "diverged"), by_epoch=())]):
        plot_trials(tmp_path / "trials.png", trials, "ndcg@20")
        assert (tmp_path / "trials.png").read_bytes().startswith(b"\x89PNG")


def test_any_text_survives_in_the_best_configuration(tmp_path):
    odd = {"user_column": 'a "quoted" \\ name', "item_column": "Artikel-Nº\x7f\n😀", "half_life_days": 1e-05}
    write_best(tmp_path / "best.toml", tried(0.4, 1), "ndcg@20", odd)
    assert tomllib.loads((tmp_path / "best.toml").read_text(encoding="utf-8")).items() >= odd.items()


def test_the_command_leaves_a_configuration_that_trains_as_it_was_measured(tmp_path, capsys):
    events, output = events_file(tmp_path / "events.csv"), tmp_path / "tuning"
    command = [
        "tune",
        str(events),
        "--output",
        str(output),
        "--factors",
        "4,2",
        "--trials",
        "3",
        "--refine-trials",
        "1",
    ]
    command += ["--epochs", "3", "--metric", "ndcg@5", "--threads", "1", "--event-weights", "view=0.5"]
    assert main(command) == 0
    first = capsys.readouterr()
    assert "4 trials: " in first.out
    assert f"{output / 'best.toml'}\n{output / 'trials.csv'}\n{output / 'trials.png'}\n" in first.out
    assert "2 factors, trial 3 of 3: " in first.err
    best = tomllib.loads((output / "best.toml").read_text())
    assert best["event_weights"] == "view=0.5"
    trained = ["--threads", "1", "--quiet", "--config", str(output / "best.toml")]
    assert main(["train", str(events), "--releases", str(tmp_path / "releases"), *trained]) == 0
    assert main(["evaluate", "--train", str(events), "--split", "random:0.2", "--metrics", "ndcg@5", *trained]) == 0
    told = float((output / "best.toml").read_text().split()[2])
    evaluated = float(
        next(line for line in capsys.readouterr().out.splitlines() if line.startswith("ndcg@5")).split()[1]
    )
    assert evaluated == pytest.approx(told, abs=0.01)

    assert main([*command, "--quiet"]) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert "trial" not in again.err
    events_file(events, seed=1)
    assert main(command) == 2
    assert "holds a search with other events" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--factors", "64,", "--factors: found '64,', expected a comma-separated list"),
        ("--factors", "9000", "expected whole numbers from 1 to 8192"),
        ("--weighting", "log,wit", "found 'wit', expected some of binary,count,log,propensity,tfidf,bm25"),
        ("--metric", "ndcg@5,hr@5", "expected one metric"),
        ("--split", "never", "the split is 'never'"),
    ],
)
def test_what_cannot_be_searched_is_said_before_anything_is_read(flag, value, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "nowhere.csv", flag, value]) == 2
    assert message in capsys.readouterr().err
    assert list(itertools.islice(tmp_path.iterdir(), 1)) == []


@pytest.mark.parametrize("package", ["optuna", "matplotlib"])
def test_a_missing_package_names_the_extra(package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith("trainer.tuning")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["tune", "nowhere.csv"]) == 1
    assert "pip install 'nearcart[train,tune]'" in capsys.readouterr().err
