"""The two ranking protocols against plain sorting, and the published numbers that prove the evaluator."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import reference
from made_interactions import interactions_of, random_matrix
from shared_data import shared_data

from engine.cli import main
from engine.ids import IdTable
from trainer.als import train as als_train
from trainer.candidates import read_candidates
from trainer.errors import EvaluationError, TrainingDiverged
from trainer.evaluate import (
    Scorer,
    candidates_ranking,
    catalogue_ranking,
    check_cases,
    check_metrics,
    encoded,
    hold_out,
    known_items,
    match_cases,
    popularity_scorer,
    rank_candidates,
    rank_catalogue,
    seen_items,
)
from trainer.metrics import measure, parse_metrics
from trainer.options import AlsOptions

METRICS = parse_metrics("recall@5,recall@5/min,precision@5,ndcg@5,map@5,mrr@5,hr@5")


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


def test_a_ranking_holds_the_sorted_rows_and_ends_where_items_end():
    train, test = (interactions_of(random_matrix(12, 15, seed=seed)) for seed in (4, 104))
    scorer, held_out = random_scorer(12, 15, seed=4), hold_out(train, test)
    ranking = catalogue_ranking(scorer, train.by_user, held_out, 20)
    assert ranking.rows.shape == (len(held_out.users), 20)
    for i, user in enumerate(held_out.users.tolist()):
        scores = scorer.item_vectors.astype(np.float64) @ scorer.user_vectors[user]
        scores[train.by_user.row(user)[0]] = -np.inf
        expected = reference.best_rows(scores, 20)
        assert ranking.rows[i].tolist() == expected + [-1] * (20 - len(expected))
        relevant = set(test.by_user.row(user)[0].tolist())
        assert ranking.hits[i].tolist() == [row in relevant for row in ranking.rows[i].tolist()]


def test_a_ranking_is_the_same_for_any_number_of_threads(monkeypatch):
    monkeypatch.setattr("trainer.evaluate._BATCH_SCORES", 200)
    train, test = (interactions_of(random_matrix(60, 50, seed=seed)) for seed in (5, 105))
    generator = np.random.default_rng(5)
    scorer = Scorer(*(generator.normal(size=(n, 8)).astype(np.float32) for n in (60, 50)))
    seen: list[float] = []
    rankings = [
        catalogue_ranking(scorer, train.by_user, hold_out(train, test), 7, threads=threads, on_progress=seen.append)
        for threads in (1, 2, 5)
    ]
    for other in rankings[1:]:
        np.testing.assert_array_equal(rankings[0].rows, other.rows)
        np.testing.assert_array_equal(rankings[0].hits, other.hits)
    assert seen == sorted(seen[: len(seen) // 3]) * 3
    assert seen[-1] == 1.0


def test_prices_are_those_of_the_test_events_also_of_items_that_training_never_saw():
    train = interactions_of(np.eye(3))
    test = dataclasses.replace(
        interactions_of(np.array([[0, 1, 1, 1.0], [0, 0, 1, 0], [1, 0, 0, 0]])),
        prices=np.array([np.nan, 20, 5, 100], dtype=np.float32),
    )
    held_out = hold_out(train, test)
    np.testing.assert_array_equal(held_out.prices, np.array([np.nan, 20, 5], dtype=np.float32))
    assert held_out.relevant_price.tolist() == [125.0, 5.0, 0.0]
    scorer = popularity_scorer(train)
    catalogue = known_items(train, held_out, np.eye(3, dtype=np.float32))
    ranking = catalogue_ranking(scorer, train.by_user, held_out, 2, catalogue=catalogue)
    found = measure(parse_metrics("revenue@2,novelty@2,coverage@1"), ranking)
    np.testing.assert_allclose(found.per_user["revenue@2"], [25 / 125, 1.0, np.nan])
    assert found.means["novelty@2"] == pytest.approx(np.log2(3))
    assert found.means["coverage@1"] == pytest.approx(2 / 3)


def test_metrics_that_cannot_be_measured_are_refused_before_training():
    train = interactions_of(np.eye(3))
    held_out = hold_out(train, interactions_of(np.ones((3, 3))))
    check_metrics(parse_metrics("recall@5,novelty@5"), held_out)
    check_metrics(METRICS, None)
    with pytest.raises(EvaluationError, match="revenue@5: no test event has a price"):
        check_metrics(parse_metrics("recall@5,revenue@5"), held_out)
    with pytest.raises(EvaluationError, match=r"diversity@1: .* at least 2"):
        check_metrics(parse_metrics("diversity@1"), held_out)
    with pytest.raises(EvaluationError, match="novelty@5 is about lists from the whole catalogue"):
        check_metrics(parse_metrics("recall@5,novelty@5"), None)


def renamed(interactions, *, users=None, items=None):
    """The same entries under other ids."""
    tables = {"user_ids": users, "item_ids": items}
    return dataclasses.replace(interactions, **{name: IdTable.of(ids) for name, ids in tables.items() if ids})


def test_what_held_out_users_have_seen_is_told_in_rows_of_training():
    train = renamed(interactions_of(np.eye(3)), items=["c", "a", "b"])
    history = interactions_of(np.array([[1, 2, 0, 0], [0, 0, 0, 3], [-1, 0, 4, 5.0]]))
    seen = seen_items(train, renamed(history, users=["x", "y", "z"], items=["a", "c", "b", "new"]))
    assert (seen.n_rows, seen.n_columns) == (3, 3)
    found = [tuple(array.tolist() for array in seen.row(user)) for user in range(3)]
    assert found == [([0, 1], [2.0, 1.0]), ([], []), ([1, 2], [-1.0, 4.0])]


def test_folding_the_training_users_in_gives_their_trained_vectors():
    train = interactions_of(random_matrix(12, 15, seed=8, negative=0.1))
    embeddings = als_train(train, AlsOptions(factors=4, epochs=2, threads=1))
    scorer = encoded(embeddings, seen_items(train, train))
    np.testing.assert_array_equal(scorer.user_vectors, embeddings.user_vectors)
    assert scorer.item_vectors is embeddings.item_vectors


def test_held_out_users_are_ranked_by_their_history_without_it():
    train = interactions_of(random_matrix(20, 15, seed=6, density=0.4))
    users = [f"held out {i}" for i in range(9)]
    history, test = (renamed(interactions_of(random_matrix(9, 15, seed=seed)), users=users) for seed in (7, 107))
    embeddings = als_train(train, AlsOptions(factors=4, epochs=2, threads=1))
    seen, held_out = seen_items(train, history), hold_out(train, test, history)
    scorer = encoded(embeddings, seen)
    ranking = catalogue_ranking(scorer, seen, held_out, 5)
    assert [users[row] for row in held_out.users] == [users[row] for row in range(9) if len(test.by_user.row(row)[0])]
    for i, user in enumerate(held_out.users.tolist()):
        rows, values = history.by_user.row(user)
        scores = embeddings.item_vectors.astype(np.float64) @ embeddings.encoder().encode(rows, values)
        scores[rows] = -np.inf
        if len(rows):
            assert ranking.rows[i].tolist() == reference.best_rows(scores, 5)
    popular = catalogue_ranking(popularity_scorer(train, seen.n_rows), seen, held_out, 5)
    first = np.argsort(-train.popularity(), kind="stable")
    for i, user in enumerate(held_out.users.tolist()):
        assert popular.rows[i].tolist() == [row for row in first if row not in history.by_user.row(user)[0]][:5]


def test_a_weight_that_overflows_in_a_held_out_history_is_named_with_the_place_of_its_user():
    train = interactions_of(random_matrix(20, 15, seed=6, density=0.4))
    embeddings = als_train(train, AlsOptions(factors=4, epochs=2, threads=1))
    matrix = random_matrix(9, 15, seed=7)
    matrix[5, 2] = 1e38
    history = renamed(interactions_of(matrix), users=[f"held out {i}" for i in range(9)])
    with pytest.raises(TrainingDiverged, match=r"the vector of user 6 of those folded in is not finite.*lower them"):
        encoded(embeddings, seen_items(train, history))


def test_test_users_without_a_history_are_refused():
    train, history = interactions_of(np.eye(3)), renamed(interactions_of(np.eye(3)), users=["a", "b", "c"])
    with pytest.raises(EvaluationError, match="none of the 3 test users is among the 3 history users"):
        hold_out(train, interactions_of(np.eye(3)), history)


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


def test_candidates_that_training_never_saw_are_not_listed(tmp_path):
    path = tmp_path / "test.negative"
    path.write_text("(user 1,item 3)\titem 4\tnew\titem 5\n(user 2,new)\titem 9\n")
    train = interactions_of(random_matrix(6, 12, seed=3, density=0.9))
    scorer = Scorer(np.ones((6, 1), dtype=np.float32), np.arange(12, dtype=np.float32)[:, np.newaxis])
    ranking = candidates_ranking(scorer, match_cases(train, read_candidates(path)), 4)
    assert ranking.rows.tolist() == [[5, 4, 3, -1], [9, -1, -1, -1]]
    assert ranking.hits.tolist() == [[False, False, True, False], [False] * 4]


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


@pytest.fixture
def events(tmp_path):
    """Two kinds of users, each with a half of the items; prices and times."""
    generator = np.random.default_rng(12)
    lines = ["user_id,item_id,price,timestamp"]
    for user in range(40):
        for item in generator.choice(10, 6, replace=False).tolist():
            lines.append(f"u{user},i{item + 10 * (user % 2)},{1 + item},{1_600_000_000 + 3600 * len(lines)}")
    path = tmp_path / "events.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


SMALL = ["--factors", "4", "--epochs", "3", "--threads", "1", "--quiet"]
ALL_METRICS = "recall@5,ndcg@5,map@5,revenue@5,novelty@5,diversity@5,coverage@5"


@pytest.mark.parametrize("split", ["random:0.2", "last", "time:3d", "users:0.2"])
def test_events_are_split_and_evaluated_with_intervals_and_a_comparison(split, events, capsys):
    arguments = ["evaluate", "--train", str(events), "--split", split, "--metrics", ALL_METRICS, *SMALL]
    assert main([*arguments, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    names = ALL_METRICS.split(",")
    per_user = [name for name in names if name != "coverage@5"]
    assert list(results["metrics"]) == list(results["popularity"]) == names
    assert list(results["intervals"]) == list(results["comparison"]) == per_user
    for name in per_user:
        low, high = results["intervals"][name]
        assert low <= results["metrics"][name] <= high
        difference = results["comparison"][name]
        assert difference["interval"][0] <= difference["difference"] <= difference["interval"][1]
        assert 0 < difference["p"] <= 1
        expected = results["metrics"][name] - results["popularity"][name]
        assert difference["difference"] == pytest.approx(expected, abs=1e-12)
    assert results["users"] > 0
    assert results["configuration"]["split"] == split


def test_held_out_users_are_told_apart_by_what_they_have(events, capsys):
    # Only the history of a held-out user says which half of the items is his.
    arguments = ["evaluate", "--train", str(events), "--split", "users:0.3", "--metrics", "precision@1", *SMALL]
    assert main([*arguments, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["users"] == 12
    assert results["metrics"]["precision@1"] > results["popularity"]["precision@1"]


def test_the_table_has_a_line_a_metric_and_an_interval_where_users_have_a_value(events, capsys):
    arguments = ["evaluate", "--train", str(events), "--split", "last", "--metrics", "recall@5,coverage@5", *SMALL]
    assert main(arguments) == 0
    header, recall, coverage, counts = capsys.readouterr().out.splitlines()
    assert header.split() == ["als", "popular", "95%", "interval", "of", "als"]
    assert len(recall.split()) == 6
    assert len(coverage.split()) == 3
    assert counts.startswith("40 users, ")


def test_least_numbers_of_items_leave_the_test_events_whole(events, tmp_path, capsys):
    test = tmp_path / "test.csv"
    test.write_text("user_id,item_id\nu0,i0\nu1,i11\n")
    arguments = ["evaluate", "--train", str(events), "--test", str(test), "--min-user-items", "3", *SMALL, "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["users"] == 2


@pytest.mark.parametrize("others", [["--test", "b.csv"], ["--candidates", "c.negative"]])
def test_a_split_beside_other_test_events_is_refused(others, capsys):
    assert main(["evaluate", "--train", "a.csv", "--split", "last", *others]) == 2
    assert "leave --test and --candidates away" in capsys.readouterr().err


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
