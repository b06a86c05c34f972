"""`nearcart index --fold-in`: events since a training become a release that keeps every promise of one."""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import shutil
import signal
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from engine.attributes import read_attributes
from engine.calibration import rebuild_index
from engine.cli import main
from engine.client import Client
from engine.errors import ReleaseCorrupt, ReleaseIncompatible
from engine.fold_in import GROUP, fold_in
from engine.parts import EXPORT_ROTATION, DensePart
from engine.plan import IndexPlan
from engine.queries import CartQuery, SimilarQuery, Source, UserQuery
from engine.release import Release
from engine.repository import Repository
from engine.retrieval import Snapshot
from engine.sparse_part import read_sparse_parts
from engine.vector_table import packed
from trainer.errors import ColumnMissing, EventsUnreadable, FoldInImpossible, ItemsError, MemoryShort, NothingLeft
from trainer.export import exported
from trainer.new_items import fold_events_in
from trainer.recipe import Recipe
from trainer.warm_start import read_histories

HEADER = ("Kunde", "Artikel", "Zeit", "Menge", "Bon")
COLUMNS = {"user": "Kunde", "item": "Artikel", "timestamp": "Zeit", "quantity": "Menge", "basket": "Bon"}
N_USERS, N_ITEMS = 90, 40
COPY_OF = "a03"
ITEMS = ("item_id", "title", "size", "grams", "tags", "added", "giftable", "available")


def row_of(user, item, basket="", quantity=1):
    return (user, item, "2026-03-11 10:00:00", quantity, basket)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Events of two tastes under foreign names, the events since, and an items file of each."""
    folder = tmp_path_factory.mktemp("store")
    generator = np.random.default_rng(0)
    rows = []
    for user in range(N_USERS):
        for basket in range(3):
            items = generator.choice(N_ITEMS // 2, 4, replace=False) + user % 2 * N_ITEMS // 2
            rows += [row_of(f"k{user:02}", f"a{item:02}", f"b{user}-{basket}") for item in items]
    rows.append(row_of("grump", "a05", "bg", 1))
    written(folder / "orders.csv", rows)
    # Since then: a copy of an item (same users, same numbers of events), an item that only strangers with known items
    # have, one whose buyers have nothing else, pairs that are known already, and a known item that is new to its user.
    copied = [(*row[:1], "copy", *row[2:4], "c" + row[4]) for row in rows if row[1] == COPY_OF]
    strange = [
        row_of(f"new{n}", item, f"s{n}") for n in range(6) for item in (f"a{20 + n:02}", "a30", "a31", "strange")
    ]
    lonely = [row_of("lonely", "alone"), row_of("lonely", "alone too")]
    again = [row for row in rows[:40] if row[0] != "k00"]
    unseen = next(f"a{n:02}" for n in range(20) if not any(row[0] == "k00" and row[1] == f"a{n:02}" for row in rows))
    written(folder / "since.csv", [*copied, *strange, *lonely, *again, row_of("k00", unseen)])
    known = [
        (f"a{n:02}", f"Thing {n}", f"{n}", n / 2, '["x", "y"]', "2026-01-02", "true", "yes") for n in range(N_ITEMS)
    ]
    written(folder / "items.csv", [("a00", "Thing 0", "large", *known[0][3:]), *known[1:]], ITEMS)
    born = [
        ("copy", "A copy", "12", 7, '["z"]', "2026-03-01", "true", "yes"),
        ("strange", "Odd", "3", "", "", "", "", "no"),
    ]
    written(folder / "born.csv", [*born, ("a01", "Renamed", "1", 1, "", "", "", "no")], ITEMS)
    return SimpleNamespace(folder=folder, rows=rows, unseen=unseen)


def written(path, rows, header=HEADER):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def trained(store):
    """The releases with the training alone, and its id. Shared: read only."""
    command = ["train", str(store.folder / "orders.csv"), "--releases", str(store.folder / "releases"), "--quiet"]
    command += [text for role, name in COLUMNS.items() for text in (f"--{role}-column", name)]
    command += ["--items", str(store.folder / "items.csv"), "--factors", "8", "--epochs", "6", "--threads", "1"]
    assert main(command) == 0
    return Repository(store.folder / "releases")


@pytest.fixture
def releases(trained, tmp_path):
    """A copy, for a test to change."""
    return Repository(shutil.copytree(trained.root, tmp_path / "releases"))


def fold(repository, *events, items=None, release_id=None, promote=True):
    release_id = release_id or repository.current()
    published, _ = fold_events_in(
        repository, release_id, [str(each) for each in events], items, IndexPlan(), 0.9,
        promote=promote, seconds=0, on_step=lambda text: None,
    )  # fmt: skip
    return Release(repository.path(published))


@pytest.fixture(scope="module")
def folded(store, trained, tmp_path_factory):
    """The events since, folded into a copy of the training. Shared: read only."""
    repository = Repository(shutil.copytree(trained.root, tmp_path_factory.mktemp("folded") / "releases"))
    base = Release(repository.current_path())
    release = fold(repository, store.folder / "since.csv", items=store.folder / "born.csv")
    return SimpleNamespace(repository=repository, base=base, release=release)


@pytest.fixture
def registered(monkeypatch):
    """The entry point as pyproject.toml has it, whatever was installed here."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    declared = [importlib.metadata.EntryPoint(*each, GROUP) for each in project["entry-points"][GROUP].items()]
    whole = importlib.metadata.entry_points
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda *, group: declared if group == GROUP else whole(group=group)
    )
    return declared


def history_of(release, user_id):
    """Weight by item id."""
    histories = read_histories(release)
    rows, values = histories.by_user.row(histories.user_ids.row(user_id))
    return dict(zip(histories.item_ids.take(rows), values.tolist(), strict=True))


# What is in the release.


def test_known_rows_stay_and_new_ones_come_behind(folded):
    before, after = read_histories(folded.base), read_histories(folded.release)
    old_items, old_users = len(before.item_ids), len(before.user_ids)
    assert after.item_ids.take(np.arange(old_items)) == before.item_ids.take(np.arange(old_items))
    assert after.user_ids.take(np.arange(old_users)) == before.user_ids.take(np.arange(old_users))
    assert set(after.item_ids.take(np.arange(old_items, len(after.item_ids)))) == {"copy", "strange"}
    assert after.user_ids.take(np.arange(old_users, len(after.user_ids))) == [f"new{n}" for n in range(6)]


def test_the_manifest_says_what_was_folded_in_and_what_was_left_out(folded, store):
    manifest, base = folded.release.manifest, folded.base.manifest
    found = manifest["folded_in"]
    assert {name: found[name] for name in ("items", "users")} == {"items": 2, "users": 6}
    assert found["left_out"] == {
        "items_with_few_users": 0, "items_without_evidence": 2, "users_with_few_items": 0, "users_without_items": 1,
    }  # fmt: skip
    n_copies = len({row[0] for row in store.rows if row[1] == COPY_OF})
    assert found["entries"] == n_copies + 24 + 1
    assert found["rows"] == sum(row[1] == COPY_OF for row in store.rows) + 24 + 1
    assert found["events"]["rows_read"] == found["events"]["rows_kept"]
    assert manifest["index_of"] == manifest["aligned_to"] == base["release_id"]
    assert manifest["sizes"]["entries"] == base["sizes"]["entries"] + found["entries"]
    assert manifest["sizes"]["events"] == base["sizes"]["events"] + found["rows"]
    for kept in ("configuration", "losses", "metrics", "parts", "attributes", "events"):
        assert manifest[kept] == base[kept]


def test_entries_that_the_release_has_keep_their_weight_and_others_are_added(folded, store):
    before, after = history_of(folded.base, "k00"), history_of(folded.release, "k00")
    assert set(after) - set(before) <= {store.unseen, "copy"}
    assert after[store.unseen] == 1
    assert {item: after[item] for item in before} == before
    assert history_of(folded.release, "k01").items() >= history_of(folded.base, "k01").items()
    copied = {row[0] for row in store.rows if row[1] == COPY_OF}
    for user in copied:
        held = history_of(folded.release, user)
        assert held["copy"] == held[COPY_OF]


def test_a_stored_history_folds_in_to_the_stored_vector(folded):
    part = DensePart.of(folded.release.manifest)
    encoder, users = part.encoder(folded.release), part.user_vectors(folded.release)
    histories = read_histories(folded.release).by_user
    assert histories.n_rows == len(users) == N_USERS + 1 + 6
    for row in range(len(users)):
        np.testing.assert_allclose(encoder.encode(*histories.row(row)), users[row], atol=1e-6)


def test_the_items_stand_in_their_eigenbasis_with_its_spectrum(folded):
    part = DensePart.of(folded.release.manifest)
    encoder = part.encoder(folded.release)
    items = encoder.item_vectors[:]
    gram = items.astype(np.float64).T @ items
    np.testing.assert_allclose(gram, np.diag(encoder.spectrum), atol=1e-5 * encoder.spectrum[0])


def test_folding_in_keeps_the_format_of_the_vectors(store, releases):
    rebuild_index(releases, releases.current(), IndexPlan(), 0.9, promote=True, vectors="int16")
    base = Release(releases.current_path())
    release = fold(releases, store.folder / "since.csv")
    old, part = DensePart.of(base.manifest), DensePart.of(release.manifest)
    assert part.vectors == "int16"
    assert part.n_items > old.n_items
    assert release.manifest["packing"]["to"] == "int16"
    before, after = old.item_vectors(base)[:], part.item_vectors(release)[: old.n_items]
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=2e-4 * np.abs(before @ before.T).max())
    encoder, users = part.encoder(release), part.user_vectors(release)
    histories = read_histories(release).by_user
    for row in range(len(users)):
        np.testing.assert_array_equal(packed(encoder.encode(*histories.row(row))[np.newaxis], "int16")[0], users[row])
    Snapshot.open(releases.current_path())


def test_popularity_and_its_order_count_the_new_entries(folded):
    n_items = folded.release.manifest["sizes"]["items"]
    histories = read_histories(folded.release)
    popularity = folded.release.array("items/popularity", np.int32, (n_items,))
    order = folded.release.array("items/popular_rows", np.int32, (n_items,))
    np.testing.assert_array_equal(popularity, np.bincount(histories.by_user.indices, minlength=n_items))
    assert (np.diff(popularity[order]) <= 0).all()
    assert popularity[histories.item_ids.row("strange")] == 6


def test_canary_carts_hold_new_items_too(folded):
    starts = folded.release.array("canaries/carts.indptr", np.int64, (None,))
    carts = folded.release.array("canaries/carts.indices", np.int32, (int(starts[-1]),))
    rows = read_histories(folded.release).item_ids.rows(["copy", "strange"])
    assert np.isin(carts, rows).any()
    assert np.isin(carts, np.arange(N_ITEMS)).any()
    assert len(starts) - 1 <= 500


def carts_of(release):
    starts = release.array("canaries/carts.indptr", np.int64, (None,))
    carts = release.array("canaries/carts.indices", np.int32, (int(starts[-1]),))
    return [tuple(carts[first:last].tolist()) for first, last in pairwise(starts.tolist())]


def test_a_day_that_is_folded_in_again_and_again_gives_its_carts_once(folded, store, tmp_path):
    """Recall is measured on these carts; copies would make its lower bound too high."""
    releases = Repository(shutil.copytree(folded.repository.root, tmp_path / "releases"))
    before = carts_of(folded.release)
    rows = list(csv.reader((store.folder / "since.csv").read_text().splitlines()))[1:]
    for hour in range(3):
        day = written(tmp_path / "day.csv", [*rows, *(row_of(f"late{n}", "a30") for n in range(hour + 1))])
        release = fold(releases, day)
    carts = carts_of(release)
    assert len(set(carts)) == len(carts) - (len(before) - len(set(before)))
    assert set(before) <= set(carts)


def test_exported_vectors_of_known_items_stay_where_they_were_fold_in_after_fold_in(folded, store, tmp_path):
    releases = Repository(shutil.copytree(folded.repository.root, tmp_path / "releases"))
    more = written(tmp_path / "more.csv", [row_of(f"k{n:02}", "third") for n in range(0, 20, 2)])
    nights = [folded.base, folded.release, fold(releases, more)]
    assert nights[2].manifest["configuration"] == folded.base.manifest["configuration"]

    def vectors(release):
        part = DensePart.of(release.manifest)
        return exported(part.item_vectors(release), part.export_rotation(release))

    first, second, third = map(vectors, nights)
    np.testing.assert_allclose(second[: len(first)], first, atol=2e-6)
    np.testing.assert_allclose(third[: len(second)], second, atol=2e-6)
    rotation = nights[2].array(EXPORT_ROTATION, np.float32, (8, 8)).astype(np.float64)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(8), atol=1e-6)


def test_attributes_and_availability_of_known_items_stay_and_those_of_new_ones_are_of_the_same_kinds(folded):
    n_items = folded.release.manifest["sizes"]["items"]
    before, after = read_attributes(folded.base, N_ITEMS), read_attributes(folded.release, n_items)
    copy, strange, renamed = read_histories(folded.release).item_ids.rows(["copy", "strange", "a01"]).tolist()
    assert list(after) == list(before) == ["title", "size", "grams", "tags", "added", "giftable"]
    assert [after["title"][row] for row in (copy, strange, renamed)] == ["A copy", "Odd", "Thing 1"]
    # Sizes of the new items are all numbers; the attribute is text all the same.
    assert [after["size"][row] for row in (copy, strange)] == ["12", "3"]
    assert after["grams"][copy] == 7
    assert np.isnan(after["grams"][strange])
    np.testing.assert_array_equal(after["grams"][:N_ITEMS], before["grams"])
    tags = after["tags"]
    assert tags.texts.take(np.arange(tags.starts[copy], tags.starts[copy + 1])) == ["z"]
    assert tags.starts[strange] == tags.starts[strange + 1]
    assert after["added"].seconds[copy] == 1_772_323_200
    assert after["giftable"][[copy, strange]].tolist() == [True, False]
    available = folded.release.array("items/available", np.bool_, (n_items,))
    assert available[[copy, strange, renamed]].tolist() == [True, False, True]


def test_without_an_items_file_new_items_have_no_attributes_and_are_available(releases, store):
    release = fold(releases, store.folder / "since.csv")
    attributes = read_attributes(release, release.manifest["sizes"]["items"])
    copy = read_histories(release).item_ids.row("copy")
    assert attributes["title"][copy] == ""
    assert np.isnan(attributes["grams"][copy])
    assert release.array("items/available", np.bool_, (None,))[N_ITEMS:].all()


# Answers.


def test_a_copy_of_an_item_ranks_beside_it(folded):
    snapshot = Snapshot.open(folded.repository.current_path())
    assert snapshot.similar_items(SimilarQuery(item_id=COPY_OF, limit=3)).item_ids[0] == "copy"
    assert snapshot.similar_items(SimilarQuery(item_id="copy", limit=3)).item_ids[0] == COPY_OF


def test_a_new_user_is_known_and_gets_personal_answers_of_his_taste(folded):
    answer = Snapshot.open(folded.repository.current_path()).recommend_for_users([UserQuery("new1", limit=10)])[0]
    assert answer.source is Source.PERSONAL
    assert sum(item >= "a20" for item in answer.item_ids) >= 8


def test_the_command_publishes_what_a_server_answers_with(store, releases, registered, capsys, caplog):
    base = releases.current()
    command = ["index", "--releases", str(releases.root), "--fold-in", str(store.folder / "since.csv")]
    assert main([*command, "--items", str(store.folder / "born.csv")]) == 0
    told = capsys.readouterr().out.split("\n")
    assert releases.current() == told[-2] != base
    assert "cart: recall@20 1.0000" in "\n".join(told)
    releases.verify(releases.current())
    assert "New: 2 items, 6 users, " in caplog.text
    assert "2 items that nobody likes who likes an item with a vector" in caplog.text
    assert "born.csv: 2 of 2 new items have a row" in caplog.text
    serve = [sys.executable, "-m", "engine.cli", "serve", "--releases", str(releases.root), "--address", "127.0.0.1:0"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        with Client(server.stdout.readline().strip()) as client:
            near = client.recommend_for_cart([COPY_OF], limit=5, titles=True)
            assert near.item_ids[0] == "copy"
            assert near.titles[0] == "A copy"
            assert COPY_OF in client.recommend_for_cart(["copy"], limit=3).item_ids
            assert "strange" not in client.recommend_for_cart(["a30", "a31"], limit=50).item_ids  # sold out
            assert client.similar_items("strange", limit=5).item_ids
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0


def test_a_release_that_is_not_live_can_be_the_base_and_the_new_one_need_not_be(store, releases):
    base = releases.current()
    other = fold(releases, store.folder / "since.csv")
    again = fold(releases, store.folder / "since.csv", release_id=base, promote=False)
    assert releases.current() == other.release_id
    for name in ("parts/0/user_vectors", "parts/0/item_vectors", "users/history.values", EXPORT_ROTATION):
        np.testing.assert_array_equal(
            np.load(again.directory / f"{name}.npy"), np.load(other.directory / f"{name}.npy")
        )


def test_users_alone_are_folded_in_where_no_item_is_new(releases, store, tmp_path):
    path = written(
        tmp_path / "users.csv", [row_of("k00", store.unseen), row_of("later", "a01"), row_of("later", "a02")]
    )
    base = Release(releases.current_path())
    release = fold(releases, path)
    assert {name: release.manifest["folded_in"][name] for name in ("items", "users", "entries")} == {
        "items": 0, "users": 1, "entries": 3,
    }  # fmt: skip
    assert history_of(release, "k00") == {**history_of(base, "k00"), store.unseen: 1.0}
    assert (
        Snapshot.open(release.directory).recommend_for_users([UserQuery("later", limit=3)])[0].source is Source.PERSONAL
    )


def test_the_support_that_training_asked_for_holds_for_what_is_new(releases, store, monkeypatch):
    whole = Recipe.of

    def stricter(release):
        recipe = whole(release)
        return dataclasses.replace(
            recipe, events=dataclasses.replace(recipe.events, min_item_users=7, min_user_items=4)
        )

    monkeypatch.setattr("trainer.new_items.Recipe.of", stricter)
    release = fold(releases, store.folder / "since.csv")
    # "strange" has six users; they are left with three items each, and what training has of others stays as it is.
    assert read_histories(release).item_ids.row("strange") == -1
    assert read_histories(release).item_ids.row("copy") == N_ITEMS
    left_out = release.manifest["folded_in"]["left_out"]
    assert left_out["items_with_few_users"] == 3
    assert left_out["users_with_few_items"] == 6
    assert release.manifest["sizes"]["users"] == N_USERS + 1


# What cannot be.


@pytest.mark.parametrize(
    ("content", "kind", "told"),
    [
        (None, EventsUnreadable, "does not exist"),
        ("", EventsUnreadable, "is empty"),
        ("Kunde,Artikel,Zeit,Menge,Bon\n,,,,\n", NothingLeft, "no events are left"),
    ],
)
def test_events_that_cannot_be_read_publish_nothing(releases, tmp_path, content, kind, told):
    before = releases.current()
    path = tmp_path / "events.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(kind, match=told):
        fold(releases, path)
    assert releases.current() == before


def test_memory_that_does_not_do_is_said_before_vectors_are_solved(releases, store, monkeypatch):
    monkeypatch.setattr("trainer.memory.available_bytes", lambda: 1 << 20)
    with pytest.raises(
        MemoryShort, match=r"folding events into 97 users and 42 items with 8 factors takes about .* MiB"
    ):
        fold(releases, store.folder / "since.csv")


def test_events_without_anything_new_publish_nothing(store, releases):
    before = sorted(each.release_id for each in releases.summaries())
    with pytest.raises(FoldInImpossible, match=r"found nothing new to fold in. New: 0 items, 0 users, 0 entries"):
        fold(releases, store.folder / "orders.csv")
    release = fold(releases, store.folder / "since.csv")
    with pytest.raises(FoldInImpossible, match="left out: 2 items that nobody likes"):
        fold(releases, store.folder / "since.csv")
    assert sorted(each.release_id for each in releases.summaries()) == sorted([*before, release.release_id])


def test_events_written_otherwise_are_refused_and_who_asks_is_said(releases, tmp_path):
    path = written(tmp_path / "foreign.csv", [row_of("k01", "x")], ("user_id", "item_id", "Zeit", "Menge", "Bon"))
    with pytest.raises(ColumnMissing, match=r'has no column "Kunde"[\s\S]*those that release \S+ was trained with'):
        fold(releases, path)


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("grams", "heavy", "the column \"grams\" holds 'heavy'; expected the kind number"),
        ("added", "yesterday", "the column \"added\" holds 'yesterday'; expected the kind date"),
        ("tags", "x", "the column \"tags\" holds 'x'; expected the kind list"),
        ("giftable", "maybe", "the column \"giftable\" holds 'maybe'; expected the kind boolean"),
        ("available", "maybe", "the column \"available\" holds 'maybe'"),
    ],
)
def test_a_value_that_is_not_of_the_attributes_kind_is_an_error(store, releases, tmp_path, column, value, told):
    row = {"item_id": "copy", column: value}
    path = written(tmp_path / "items.csv", [tuple(row.values()), ("strange", "")], tuple(row))
    with pytest.raises(ItemsError, match=told):
        fold(releases, store.folder / "since.csv", items=path)


def test_a_list_is_no_text(store, releases, tmp_path):
    table = pa.table({"item_id": ["copy"], "size": pa.array([["a", "b"]])})
    parquet.write_table(table, tmp_path / "items.parquet")
    with pytest.raises(ItemsError, match=r'the column "size" holds .*; expected the kind text'):
        fold(releases, store.folder / "since.csv", items=tmp_path / "items.parquet")


def test_columns_that_the_release_does_not_have_are_left_out_with_a_warning(store, releases, tmp_path, caplog):
    path = written(tmp_path / "items.csv", [("copy", "red")], ("item_id", "colour"))
    release = fold(releases, store.folder / "since.csv", items=path)
    assert [each["name"] for each in release.manifest["attributes"]] == list(ITEMS[1:-1])
    assert "left out, the release has no such attributes: colour" in caplog.text


def test_a_damaged_release_is_refused_before_events_are_read(releases):
    path = releases.current_path() / "items" / "popularity.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ReleaseCorrupt, match="changed or damaged"):
        fold(releases, "nowhere.csv")


def test_an_attribute_of_an_unknown_kind_is_refused(releases, store, monkeypatch):
    monkeypatch.setattr("trainer.new_items.read_attributes", lambda release, n_items: {})
    with pytest.raises(ReleaseIncompatible, match="has the attribute 'title' of the kind 'text', which this program"):
        fold(releases, store.folder / "since.csv")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--check", "--fold-in", "x.csv"], "--check builds nothing, and --fold-in publishes a release"),
        (["--items", "x.csv"], "--items says what is known of new items: give it with --fold-in"),
        (["--check", "--factory", "HNSW32"], "--check measures the index that the release has"),
        (["--check", "--search-parameters", "reach=1"], "--check measures the index that the release has"),
    ],
)
def test_flags_that_do_not_go_together_are_wrong_usage(trained, flags, told, capsys):
    assert main(["index", "--releases", str(trained.root), *flags]) == 2
    assert told in capsys.readouterr().err


def test_without_the_extra_train_the_command_says_what_to_install(trained, monkeypatch, capsys):
    def load():
        raise ModuleNotFoundError("No module named 'duckdb'", name="duckdb")

    whole = importlib.metadata.entry_points
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda *, group: [SimpleNamespace(load=load)] if group == GROUP else whole(group=group),
    )
    assert main(["index", "--releases", str(trained.root), "--fold-in", "x.csv"]) == 1
    assert "needs the package 'duckdb': install Nearcart with its extra `train`" in capsys.readouterr().err
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda *, group: [] if group == GROUP else whole(group=group)
    )
    assert main(["index", "--releases", str(trained.root), "--fold-in", "x.csv"]) == 1
    assert "found nothing that folds events in" in capsys.readouterr().err


def test_the_entry_point_is_what_the_engine_calls(registered):
    assert fold_in() is fold_events_in


@pytest.fixture(scope="module")
def blended(store, tmp_path_factory):
    """A blend of the same events, and with the events since folded in."""
    root = tmp_path_factory.mktemp("blended") / "releases"
    command = ["train", str(store.folder / "orders.csv"), "--releases", str(root), "--quiet", "--model", "blend"]
    command += [text for role, name in COLUMNS.items() for text in (f"--{role}-column", name)]
    command += ["--factors", "8", "--epochs", "6", "--threads", "1"]
    assert main(command) == 0
    repository = Repository(root)
    base = Release(repository.current_path())
    return SimpleNamespace(base=base, release=fold(repository, store.folder / "since.csv"))


def test_parts_beside_vectors_stay_as_they_were_and_new_items_have_no_rows_in_them(blended):
    before, after = (read_sparse_parts(each) for each in (blended.base, blended.release))
    assert len(before) > 0
    for old, new in zip(before, after, strict=True):
        assert (old.name, old.weight, old.encoder.recency) == (new.name, new.weight, new.encoder.recency)
        for name, array in old.memory.arrays().items():
            np.testing.assert_array_equal(array, new.memory.arrays()[name])
    assert blended.release.manifest["sizes"]["items"] > blended.base.manifest["sizes"]["items"]


def test_a_blend_that_events_were_folded_into_answers_with_all_its_parts(blended):
    snapshot = Snapshot.open(blended.release.directory)
    (cart,) = snapshot.recommend_for_carts([CartQuery(["a03", "copy"], limit=10, shares=True)])
    assert len(cart.item_ids) == 10
    np.testing.assert_allclose(cart.shares.sum(axis=1), cart.scores, rtol=1e-4, atol=1e-6)
    vectors_alone = [part["name"] for part in blended.release.manifest["parts"] if part["name"] != "als"]
    (alone,) = snapshot.recommend_for_carts([CartQuery(["copy"], limit=10, without_parts=vectors_alone)])
    assert "a03" in alone.item_ids
    (user,) = snapshot.recommend_for_users([UserQuery("k00", limit=5)])
    assert user.source is Source.PERSONAL


def test_who_folds_into_a_blend_is_told_what_new_items_lack(blended, store, tmp_path, caplog):
    repository = Repository(shutil.copytree(blended.base.directory.parent, tmp_path / "releases"))
    fold(repository, store.folder / "since.csv", release_id=blended.base.release_id)
    assert any("know nothing of the new items" in record.message for record in caplog.records)
