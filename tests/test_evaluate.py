"""The two ranking protocols against plain sorting, and the published numbers that prove the evaluator."""

from __future__ import annotations

import json

import numpy as np
import pytest
import reference
from made_interactions import interactions_of, random_matrix
from shared_data import shared_data

from engine.cli import main
from trainer.candidates import read_candidates
from trainer.errors import EvaluationError
from trainer.evaluate import (
    Scorer,
    check_cases,
    hold_out,
    match_cases,
    popularity_scorer,
    rank_candidates,
    rank_catalogue,
)
from trainer.metrics import parse_metrics

METRICS = parse_metrics("recall@5,recall@5/min,precision@5,ndcg@5,mrr@5,hr@5")


def random_scorer(n_users, n_items, seed):
    generator = np.random.default_rng(seed)
    # Few distinct values, so that ties are common.
    return Scorer(
        generator.integers(-1, 2, (n_users, 2)).astype(np.float32),
        generator.integers(-1, 2, (n_items, 2)).astype(np.float32),
    )


@pytest.mark.parametrize("seed", range(5))
def test_ranking_the_catalogue_is_sorting_what_is_not_in_the_history(seed):
    train, test = (interactions_of(random_matrix(12, 15, seed=seed + offset)) for offset in (0, 100))
    scorer = random_scorer(12, 15, seed)
    found = rank_catalogue(scorer, train.by_user, hold_out(train, test), METRICS)
    rows = []
    for user in range(12):
        relevant = test.by_user.row(user)[0].tolist()
        if not relevant:
            continue
        scores = scorer.item_vectors.astype(np.float64) @ scorer.user_vectors[user]
        scores[train.by_user.row(user)[0]] = -np.inf
        rows.append(reference.metrics(reference.best_rows(scores, 5), relevant, 5))
    for metric in METRICS:
        assert found[metric.name] == pytest.approx(np.mean([row[metric.kind] for row in rows]))


def test_test_items_that_training_never_saw_count_as_missed():
    train, test = interactions_of(np.eye(3)), interactions_of(np.ones((3, 4)))
    held_out = hold_out(train, test)
    assert held_out.n_unknown_items == 1
    assert held_out.n_relevant.tolist() == [4, 4, 4]


def test_files_that_do_not_belong_together_are_refused():
    train = interactions_of(np.eye(3))
    other = interactions_of(np.eye(3))
    renamed = type(other.user_ids).of(["a", "b", "c"])
    object.__setattr__(other, "user_ids", renamed)
    with pytest.raises(EvaluationError, match="none of the 3 test users"):
        hold_out(train, other)


def test_candidates_are_ranked_among_themselves(tmp_path):
    train = interactions_of(random_matrix(6, 12, seed=3, density=0.9))
    path = tmp_path / "test.negative"
    path.write_text("(user 1,item 3)\titem 4\titem 5\titem 3\n(user 2,item 0)\titem 9\n(nobody,item 1)\titem 2\n")
    candidates = read_candidates(path)
    scorer = random_scorer(6, 12, seed=1)
    cases = match_cases(train, candidates)
    assert cases.n_unknown_users == 1
    found = rank_candidates(scorer, cases, parse_metrics("hr@1,mrr@3"))

    def place(user, target, others):
        scores = scorer.item_vectors.astype(np.float64) @ scorer.user_vectors[user]
        return sorted([target, *others], key=lambda row: (-scores[row], row)).index(target)

    places = [place(1, 3, [4, 5]), place(2, 0, [9])]
    assert found["hr@1"] == np.mean([p == 0 for p in places])
    assert found["mrr@3"] == pytest.approx(np.mean([1 / (p + 1) for p in places]))


def test_among_equal_scores_the_smaller_row_ranks_first(tmp_path):
    path = tmp_path / "test.negative"
    path.write_text("(user 1,item 3)\titem 4\n(user 1,item 4)\titem 3\n")
    train = interactions_of(random_matrix(6, 12, seed=3, density=0.9))
    scorer = Scorer(np.ones((6, 1), dtype=np.float32), np.ones((12, 1), dtype=np.float32))
    found = rank_candidates(scorer, match_cases(train, read_candidates(path)), parse_metrics("hr@1,mrr@2"))
    assert found == {"hr@1": 0.5, "mrr@2": 0.75}


def test_what_is_disliked_is_neither_popular_nor_to_be_found():
    train = interactions_of(np.array([[1.0, -1.0], [1.0, -1.0], [0.0, -2.0]]))
    assert train.popularity().tolist() == [2, 0]
    assert popularity_scorer(train).item_vectors.ravel().tolist() == [2.0, 0.0]
    held_out = hold_out(train, interactions_of(np.array([[1.0, -1.0], [-1.0, 0.0], [0.0, 0.0]])))
    assert held_out.users.tolist() == [0]
    assert [rows.tolist() for rows in held_out.items] == [[0]]
    assert held_out.n_relevant.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ("user,item\t1\t2\n", "line 1"), ("(1,2)\n", "line 1"), ("(1,2)\t3\nnonsense\n", "line 2")],
)
def test_a_candidates_file_of_another_form_is_refused_by_line(tmp_path, text, message):
    path = tmp_path / "cases"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=message):
        read_candidates(path)


def test_cases_that_are_not_test_events_are_refused(tmp_path):
    path = tmp_path / "cases"
    path.write_text("(user 0,item 0)\titem 1\n(user 0,item 2)\titem 1\n")
    with pytest.raises(EvaluationError, match="case 2"):
        check_cases(read_candidates(path), interactions_of(np.eye(3)))


def test_popularity_on_gowalla_gives_the_published_numbers(capsys):
    # BARS leaderboard, Gowalla of LightGCN: popularity .0416 / .0317. One epoch: only the baseline is looked at.
    folder = shared_data("gowalla-lightgcn")
    arguments = ["evaluate", "--train", str(folder / "train.txt.zst"), "--test", str(folder / "test.txt.zst")]
    code = main([*arguments, "--factors", "2", "--epochs", "1", "--metrics", "recall@20,ndcg@20", "--json", "--quiet"])
    assert code == 0
    popularity = json.loads(capsys.readouterr().out)["popularity"]
    assert round(popularity["recall@20"], 4) == 0.0416
    assert round(popularity["ndcg@20"], 4) == 0.0317


def test_popularity_on_movielens_gives_the_published_numbers(capsys):
    # NCF protocol, popularity .4535 / .2543 (Rendle et al. 2020 print .453 / .254); ties are broken by row here.
    folder = shared_data("ml-1m") / "ncf"
    arguments = ["evaluate", "--train", str(folder / "train.parquet"), "--user-column", "user", "--item-column", "item"]
    arguments += [
        "--test",
        str(folder / "ml-1m.test.rating.zst"),
        "--candidates",
        str(folder / "ml-1m.test.negative.zst"),
    ]
    assert main([*arguments, "--factors", "2", "--epochs", "1", "--json", "--quiet"]) == 0
    popularity = json.loads(capsys.readouterr().out)["popularity"]
    assert popularity["hr@10"] == pytest.approx(0.4535, abs=5e-4)
    assert popularity["ndcg@10"] == pytest.approx(0.2543, abs=5e-4)


@pytest.mark.slow
def test_als_on_gowalla_reaches_the_quality_it_is_known_for(capsys):
    folder = shared_data("gowalla-lightgcn")
    arguments = ["evaluate", "--train", str(folder / "train.txt.zst"), "--test", str(folder / "test.txt.zst")]
    arguments += ["--factors", "128", "--unobserved-weight", "0.02", "--regularization", "0.003", "--epochs", "12"]
    assert main([*arguments, "--metrics", "recall@20,ndcg@20", "--json", "--quiet"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["recall@20"] >= 0.160
    assert metrics["ndcg@20"] >= 0.136
