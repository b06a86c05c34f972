"""The search for the options of parts beside vectors."""

from __future__ import annotations

import csv
import tomllib

import numpy as np
import pytest

from engine.cli import main
from trainer import parts_tuning
from trainer.parts_tuning import TriedPart, best_options

N_USERS, N_ITEMS = 60, 24


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """Each basket is of three items of one of six kinds; users have three baskets each."""
    path = tmp_path_factory.mktemp("events") / "events.csv"
    generator = np.random.default_rng(0)
    lines = ["user_id,item_id,timestamp,basket_id"]
    for user in range(N_USERS):
        for basket in range(3):
            kind = int(generator.integers(6))
            for item in generator.choice(4, 3, replace=False):
                lines.append(f"u{user},i{kind * 4 + item},2024-01-{1 + basket:02},b{user}-{basket}")
    path.write_text("\n".join(lines) + "\n")
    return path


def tune(events, output, *others):
    return main(["tune", str(events), "--output", str(output), "--trials", "4", "--threads", "1", "--quiet", *others])


def rows_of(output):
    with (output / "parts-trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_each_part_is_searched_from_its_defaults_and_the_best_is_what_train_takes(events, tmp_path, capsys):
    output = tmp_path / "tuned"
    sizes = ["--factors", "2", "--epochs", "2", "--refine-trials", "0", "--weighting", "binary"]
    assert tune(events, output, "--model", "blend", *sizes) == 0
    rows = rows_of(output)
    assert [row["part"] for row in rows] == ["regression"] * 4 + ["sessions"] * 4
    assert (rows[0]["penalty"], rows[0]["predictors"], rows[4]["nearest_sessions"]) == ("1.0", "100", "300")
    best = tomllib.loads((output / "best.toml").read_text())
    assert best["model"] == "blend"
    highest = max(rows[:4], key=lambda row: float(row["ndcg@20"]))
    assert best["penalty"] == float(highest["penalty"])
    assert best["factors"] == 2
    assert "(defaults)" in capsys.readouterr().out
    releases = str(tmp_path / "releases")
    assert main(["train", str(events), "--releases", releases, "--quiet", "--config", str(output / "best.toml")]) == 0


def test_a_search_goes_on_where_it_was_interrupted(events, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert tune(events, whole, "--model", "sessions") == 0
    original, calls = parts_tuning.learn_parts, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(parts_tuning, "learn_parts", interrupted)
        assert tune(events, broken, "--model", "sessions") == 130
    assert len(rows_of(broken)) == 2
    assert tune(events, broken, "--model", "sessions") == 0
    without_seconds = [[{**row, "seconds": ""} for row in rows_of(each)] for each in (whole, broken)]
    assert without_seconds[0] == without_seconds[1]


def test_another_search_in_the_same_directory_is_refused(events, tmp_path, capsys):
    assert tune(events, tmp_path, "--model", "sessions") == 0
    assert tune(events, tmp_path, "--model", "sessions", "--seed", "7") == 2
    assert "holds a search with seed 42; here it is 7" in capsys.readouterr().err


def test_where_nothing_is_held_out_that_can_be_asked_for_it_is_said(tmp_path, capsys):
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id\n" + "".join(f"u{n},i{n}\n" for n in range(9)))
    assert tune(path, tmp_path / "tuned", "--model", "regression") == 1
    assert "leaves nothing in" in capsys.readouterr().err


def test_the_first_part_says_how_contexts_are_weighed_and_each_what_is_its_own():
    tried = [
        TriedPart("regression", 1, {"size_damping": 0.5, "penalty": 1.0}, 0.2, 1.0),
        TriedPart("regression", 2, {"size_damping": 0.9, "penalty": 4.0}, 0.3, 1.0),
        TriedPart("regression", 3, {"size_damping": 0.1, "penalty": 9.0}, float("nan"), 1.0),
        TriedPart("sessions", 1, {"nearest_sessions": 300}, 0.1, 1.0),
        TriedPart("sessions", 2, {"nearest_sessions": 40}, 0.1, 1.0),
    ]
    assert best_options(tried) == {"size_damping": 0.9, "penalty": 4.0, "nearest_sessions": 300}
