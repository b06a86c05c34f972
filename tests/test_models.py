"""Every model, from a small file of events to a release that answers: weighed, told in the manifest, the same bits."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from fake_backend import FakeReleases, serving

from engine.cli import main
from engine.client import Client
from engine.histories import Histories
from engine.queries import CartQuery, Repeat, Source, UserQuery
from engine.recommender import Recommender
from engine.release import Release
from engine.repository import Repository
from engine.retrieval import Snapshot
from engine.sparse_part import read_sparse_parts
from trainer import models
from trainer.model_options import PARTS_OF

N_USERS, N_ITEMS, GROUP = 48, 40, 10
SMALL = ("--factors", "8", "--epochs", "3", "--threads", "1", "--factory", "Pruned", "--quiet")
MODELS = tuple(PARTS_OF)


def written(file, rows, header="user_id,item_id,timestamp,basket_id"):
    """Events of user, item and whatever else the header names."""
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return file


def shop_rows():
    """Each user's three baskets are of one group of ten items; the last two hold one that the user had."""
    generator, rows = np.random.default_rng(0), []
    for user in range(N_USERS):
        group, usual = user % (N_ITEMS // GROUP) * GROUP, []
        for number in range(3):
            items = [*usual, *(group + generator.choice(GROUP, 3, replace=False)).tolist()]
            usual = items[:1]
            rows += [(f"u{user}", f"i{item}", f"2026-0{number + 1}-10 10:00:00", f"b{user}-{number}") for item in items]
    return rows


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    return written(tmp_path_factory.mktemp("shop") / "events.csv", shop_rows())


def train(events, releases, *others):
    return main(["train", str(events), "--releases", str(releases), *SMALL, *map(str, others)])


@pytest.fixture(scope="module")
def trained(events, tmp_path_factory):
    """The live release of a training of each model, made once."""
    made = {}

    def of(model):
        if model not in made:
            root = tmp_path_factory.mktemp(model)
            assert train(events, root, "--model", model) == 0
            made[model] = Repository(root)
        return made[model]

    return of


def manifest_of(repository):
    return Release(repository.current_path()).manifest


def names_of(manifest):
    return [part["name"] for part in manifest["parts"]]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_answers_users_and_carts_from_a_published_release(trained, model):
    repository = trained(model)
    repository.verify(repository.current())
    snapshot = Snapshot.open(repository.current_path())
    answers = snapshot.recommend_for_users([UserQuery(f"u{user}", limit=8, shares=True) for user in range(N_USERS)])
    carts = [[f"i{first}", f"i{first + 1}"] for first in range(0, N_ITEMS, GROUP)]
    of_carts = snapshot.recommend_for_carts([CartQuery(cart, limit=8, shares=True) for cart in carts])
    for answer in [*answers, *of_carts]:
        assert len(answer.item_ids) == 8
        assert (np.diff(answer.scores) <= 0).all()
        assert answer.scores[0] > 0
    assert {answer.source for answer in answers} == {Source.PERSONAL}
    assert {answer.source for answer in of_carts} == {Source.CART}
    for answer in of_carts:
        np.testing.assert_allclose(answer.shares.sum(axis=1), answer.scores, rtol=1e-3, atol=1e-4)
    # What goes with two of a group are others of it.
    for first, answer in zip(range(0, N_ITEMS, GROUP), of_carts, strict=True):
        assert set(answer.item_ids[:4]) <= {f"i{first + n}" for n in range(2, GROUP)}


@pytest.mark.parametrize("model", MODELS)
def test_the_manifest_says_which_parts_count_and_how_that_was_found(trained, model):
    manifest = manifest_of(trained(model))
    names, validation = names_of(manifest), manifest["metrics"].get("validation")
    assert names == [name for name in PARTS_OF[model] if name in names]
    assert manifest["configuration"]["model"] == model
    assert ("loss" in manifest["metrics"]) == bool(manifest["losses"]) == bool(manifest["index"]) == ("als" in names)
    if model == "als":
        assert (names, validation) == (["als"], None)
        return
    others = [name for name in PARTS_OF[model] if name != "repeat"]
    assert {kind: set(metrics) for kind, metrics in validation.items()} == {
        "user": {*others, "blend"},
        "cart": {*others, "blend"},
        "repeats": {*others, "repeat", "blend"},
    }
    weights = {part["name"]: part["weight"] for part in manifest["parts"]}
    for kind in ("user", "cart"):
        best = max(others, key=validation[kind].__getitem__)
        assert weights[best][kind] == 1
        assert 0.3 < validation[kind][best] <= 1.02 * validation[kind]["blend"] <= 1.02  # vectors always count a little
    assert all(max(each.values()) > 0 for each in weights.values())
    if model in ("neighbours", "regression"):  # what never answers with what it is asked with needs it
        assert weights["repeat"]["user"] > 0
        assert weights["repeat"]["cart"] == 0
        assert validation["repeats"]["blend"] > validation["repeats"][model]


def test_what_users_take_again_comes_back_where_it_may(trained):
    snapshot = Snapshot.open(trained("neighbours").current_path())
    asked = [UserQuery(f"u{user}", limit=8, repeat=Repeat.MIX) for user in range(N_USERS)]
    with_it = snapshot.recommend_for_users(asked)
    histories = {user: {item for who, item, *_ in shop_rows() if who == f"u{user}"} for user in range(N_USERS)}
    assert all(histories[user] & set(answer.item_ids) for user, answer in enumerate(with_it))
    never = snapshot.recommend_for_users([UserQuery(f"u{user}", limit=8) for user in range(N_USERS)])
    assert not any(histories[user] & set(answer.item_ids) for user, answer in enumerate(never))


def test_ages_are_in_the_release_where_a_part_forgets(tmp_path):
    # Item 20 + n always follows item n: the newest alone tells what comes next.
    generator, rows = np.random.default_rng(1), []
    for user in range(150):
        items = [each for item in generator.choice(20, 4, replace=False).tolist() for each in (item, 20 + item)]
        rows += [(f"u{user}", f"i{item}", f"2026-01-{place + 1:02} 10:00:00") for place, item in enumerate(items)]
    ordered = written(tmp_path / "ordered.csv", rows, "user_id,item_id,timestamp")
    assert train(ordered, tmp_path / "releases", "--model", "neighbours") == 0
    release = Release(Repository(tmp_path / "releases").current_path())
    assert release.manifest["parts"][0]["encoder"]["recency"]["user"] > 0
    ages = release.array("users/history.ages", np.uint16, (150 * 8,))
    assert (np.sort(ages.reshape(150, 8)) == np.arange(8)).all()


def test_without_validation_all_parts_count_alike(events, tmp_path, capsys):
    assert train(events, tmp_path, "--model", "regression", "--validation", "none") == 0
    release = Release(Repository(tmp_path).current_path())
    manifest = release.manifest
    assert not release.has("users/history.ages")
    assert names_of(manifest) == ["regression", "repeat"]
    assert_scores_are_of_one_size(release)
    assert "validation" not in manifest["metrics"]


def assert_scores_are_of_one_size(release):
    """Each part's scores of the users' items and neighbours, times its weight: the root mean square is about 1."""
    histories = Histories.read(release)
    users = range(len(histories.indptr) - 1)
    for part in read_sparse_parts(release):
        assert part.weight.user == part.weight.cart
        recommender = Recommender(None, [part], np.ones(release.manifest["sizes"]["items"], dtype=bool))
        found = []
        for user in users:
            evidence = histories.of(user, release.manifest["sizes"]["items"])
            everything = np.arange(release.manifest["sizes"]["items"], dtype=np.int32)
            scores = recommender.scores(recommender.query(evidence, "user"), everything)
            found.append(scores[np.setdiff1d(np.flatnonzero(scores), evidence.rows)])
        found = np.concatenate(found)
        assert not len(found) or 0.3 < np.sqrt(np.mean(found**2)) < 3


def loud(*arguments):
    """Without --quiet."""
    return main([each for each in map(str, arguments) if each != "--quiet"])


def test_parts_that_are_useless_are_not_learned_again(events, tmp_path, capsys):
    assert loud("train", events, "--releases", tmp_path, *SMALL, "--model", "blend", "--validation-cases", 50) == 0
    said, names = capsys.readouterr().err, names_of(manifest_of(Repository(tmp_path)))
    words = {"als": "training 8 factors", "regression": "regression: foretelling", "sessions": "sessions: indexing"}
    words |= {"neighbours": "neighbours: counting"}
    assert {name: text in said for name, text in words.items()} == {name: name in names for name in words}
    assert not words.keys() <= set(names)


@pytest.mark.parametrize("rule", ["last", "random:0.2", "time:10d"])
def test_a_rule_that_is_given_cuts_what_parts_are_weighed_with(events, tmp_path, capsys, rule):
    arguments = ["train", events, "--releases", tmp_path, *SMALL, "--model", "neighbours", "--validation", rule]
    assert loud(*arguments) == 0
    said = capsys.readouterr().err
    assert f"finding what each part counts: holding out {rule}" in said
    assert "users: weights neighbours 1" in said
    assert manifest_of(Repository(tmp_path))["metrics"]["validation"]["user"]["neighbours"] > 0


def test_a_rule_that_does_not_suit_the_events_is_refused(events, tmp_path, capsys):
    assert train(events, tmp_path, "--model", "neighbours", "--validation", "monthly") == 2
    assert "'monthly'" in capsys.readouterr().err
    untimed = written(tmp_path / "untimed.csv", [row[:2] for row in shop_rows()], "user_id,item_id")
    assert train(untimed, tmp_path, "--model", "neighbours", "--validation", "last") == 2
    assert "--timestamp-column" in capsys.readouterr().err
    assert Repository(tmp_path).current() is None


def single_baskets():
    """Each user has one basket: there is no newest one to hold out and one before it."""
    return [row for row in shop_rows() if row[3].endswith("-0")]


def single_items():
    return [(f"u{user}", f"i{user % 7}", "", "") for user in range(30)]


def only_repeats():
    """Two baskets of the same items each."""
    return [(*row[:2], f"2026-0{n}-10", f"b{row[0]}-{n}") for row in single_baskets() for n in (1, 2)]


@pytest.mark.parametrize("rows", [single_baskets, single_items])
def test_with_nothing_to_hold_out_all_parts_count_alike_and_that_is_said(tmp_path, capsys, rows):
    events = written(tmp_path / "events.csv", rows())
    assert loud("train", events, "--releases", tmp_path, *SMALL, "--model", "sessions") == 0
    assert "all parts count alike: the split" in capsys.readouterr().err
    manifest = manifest_of(Repository(tmp_path))
    assert_scores_are_of_one_size(Release(Repository(tmp_path).current_path()))
    assert names_of(manifest) == ["sessions", "repeat"]
    assert "validation" not in manifest["metrics"]


def test_a_rule_that_is_given_and_holds_nothing_out_is_refused(tmp_path, capsys):
    events = written(tmp_path / "events.csv", single_baskets())
    assert train(events, tmp_path, "--model", "sessions", "--validation", "basket") == 1
    assert "the split 'basket' leaves nothing in test" in capsys.readouterr().err


def test_users_who_only_take_again_are_answered_as_carts_are_and_with_repeats(tmp_path):
    events = written(tmp_path / "events.csv", only_repeats())
    assert train(events, tmp_path, "--model", "neighbours") == 0
    manifest = manifest_of(Repository(tmp_path))
    assert manifest["metrics"]["validation"].keys() == {"cart", "repeats"}
    neighbours, repeat = (part["weight"] for part in manifest["parts"])
    assert neighbours["user"] == neighbours["cart"] == 1
    assert repeat["user"] > 0


def test_no_more_cases_are_asked_than_the_options_say(events, tmp_path, monkeypatch):
    asked = []

    def find_settings(learned, cases, repeats, on_step):
        asked.append([len(each.evidence) for each in (*cases, repeats)])
        return original(learned, cases, repeats, on_step)

    original = models.find_settings
    monkeypatch.setattr(models, "find_settings", find_settings)
    many = written(
        tmp_path / "many.csv", [(f"{n}{u}", i, t, f"{n}{b}") for n in range(2) for u, i, t, b in shop_rows()]
    )
    assert train(many, tmp_path, "--model", "sessions", "--validation-cases", 50) == 0
    assert asked == [[50, 50, 50]]


def files_of(repository):
    """Contents of the arrays, by name: the manifest's times and measurements differ."""
    directory = repository.current_path()
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.npy")}


@pytest.mark.parametrize("rule", ["auto", "none"])
def test_the_same_events_and_seed_give_the_same_bits_for_any_number_of_threads(events, tmp_path, rule):
    one, again = Repository(tmp_path / "one"), Repository(tmp_path / "again")
    for repository, threads in ((one, 1), (again, 2)):
        assert train(events, repository.root, "--model", "blend", "--validation", rule, "--threads", threads) == 0
    assert files_of(one) == files_of(again)
    assert manifest_of(one)["parts"] == manifest_of(again)["parts"]
    assert manifest_of(one)["metrics"] == manifest_of(again)["metrics"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "--items", "{folder}/items.parquet"],
        ["export", "--users", "{folder}/users.parquet"],
        ["index"],
        ["index", "--check"],
        ["index", "--fold-in", "{events}"],
        ["train", "{events}", "--warm-start", "live", *SMALL],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_what_needs_vectors_says_that_a_release_has_none(events, trained, tmp_path, capsys, arguments):
    repository = trained("neighbours")
    before = repository.current()
    filled = [each.format(folder=tmp_path, events=events) for each in arguments]
    assert main([*filled, "--releases", str(repository.root)]) == 1
    said = capsys.readouterr().err
    assert f"release {before} has no vectors, only 'neighbours', 'repeat': train with --model als or --model" in said
    assert "Traceback" not in said
    assert repository.current() == before
    assert list(tmp_path.iterdir()) == []


def test_vectors_are_trained_beside_a_live_release_that_has_none(events, tmp_path):
    for model in ("neighbours", "als"):
        assert train(events, tmp_path, "--model", model) == 0
    manifest = manifest_of(Repository(tmp_path))
    assert names_of(manifest) == ["als"]
    assert "aligned_to" not in manifest


def test_a_blend_answers_over_the_wire_with_its_parts_and_shares(events, tmp_path):
    assert train(events, tmp_path, "--model", "blend", "--validation", "none") == 0
    repository = Repository(tmp_path)
    snapshot = Snapshot.open(repository.current_path())
    with serving(FakeReleases(snapshot)) as server, Client(server.address) as client:
        parts = client.release().parts
        names = [part.name for part in parts]
        assert names == names_of(manifest_of(repository)) == list(PARTS_OF["blend"])
        cart, user = ["i0", "i1", "unheard of"], "u3"
        expected = snapshot.recommend_for_carts([CartQuery(cart, limit=6)])[0]
        answer = client.recommend_for_cart(cart, limit=6, shares=True)
        assert answer.item_ids == tuple(expected.item_ids)
        assert answer.scores == tuple(expected.scores.tolist())
        assert (answer.unknown_item_ids, set(answer.share_item_ids)) == (("unheard of",), {"i0", "i1"})
        np.testing.assert_allclose(np.sum(answer.shares, axis=1), answer.scores, rtol=1e-3, atol=1e-4)
        # Scores of parts add up: those without one of them, and those of it alone.
        everything = client.recommend_for_user(user, limit=N_ITEMS, repeat=Repeat.MIX)
        alone = client.recommend_for_user(user, limit=N_ITEMS, repeat=Repeat.MIX, without_parts=names[1:])
        others = client.recommend_for_user(user, limit=N_ITEMS, repeat=Repeat.MIX, without_parts=names[:1])
        sums = dict.fromkeys(everything.item_ids, 0.0)
        for each in (alone, others):
            assert each.item_ids != everything.item_ids
            for item, score in zip(each.item_ids, each.scores, strict=True):
                sums[item] += score
        np.testing.assert_allclose(list(sums.values()), everything.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--model", "als", "--penalty", "2"), "without effect with --model als: --penalty"),
        (("--model", "neighbours", "--recall", "0.9"), "without effect with --model neighbours: --recall"),
    ],
)
def test_options_of_parts_that_the_model_does_not_have_are_named(events, tmp_path, caplog, options, said):
    assert train(events, tmp_path, *options, "--validation-cases", 50) == 0
    assert any(record.message.startswith(said) for record in caplog.records)


def test_a_shop_where_nobody_likes_anything_is_refused_in_words(tmp_path, capsys):
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id,event\n" + "".join(f"u{n % 5},i{n % 4},bad\n" for n in range(20)))
    assert train(path, tmp_path, "--model", "neighbours", "--event-weights", "bad=-1") == 1
    assert "--model neighbours: nobody likes anything" in capsys.readouterr().err
