"""The whole road: events in a file, the commands as a user types them, a server process, and every answer checked.

The judge of the answers is brute force in float64 over the arrays of the published release.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from engine.cli import main
from engine.client import Cart, Client
from engine.ids import IdTable, StringTable
from engine.queries import Repeat, Source
from engine.release import Release
from engine.repository import Repository

N_USERS, N_ITEMS = 120, 60
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Events of two tastes as CSV with foreign column names, and an items file."""
    folder = tmp_path_factory.mktemp("shop")
    generator = np.random.default_rng(0)
    with (folder / "orders.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Kunde", "Artikel", "Zeit", "Menge", "Bon"])
        for user in range(N_USERS):
            taste = user % 2
            for basket in range(3):
                items = generator.choice(N_ITEMS // 2, 4, replace=False) + taste * N_ITEMS // 2
                for item in items:
                    time = f"2026-0{basket + 1}-11 10:00:00"
                    writer.writerow([f"k{user:03}", f"a{item:03}", time, 1, f"b{user}-{basket}"])
        writer.writerow(["", "a001", "2026-01-01", 1, "b"])
    with (folder / "items.jsonl").open("w") as file:
        for item in range(N_ITEMS):
            known = {"item_id": f"a{item:03}", "title": f"Thing {item}", "available": item % 10 != 0}
            file.write(json.dumps(known) + "\n")
    return folder


@pytest.fixture(scope="module")
def releases(shop):
    arguments = ["train", str(shop / "orders.csv"), "--releases", str(shop / "releases"), "--quiet"]
    arguments += ["--user-column", "Kunde", "--item-column", "Artikel", "--timestamp-column", "Zeit"]
    arguments += ["--quantity-column", "Menge", "--basket-column", "Bon", "--items", str(shop / "items.jsonl")]
    assert main([*arguments, "--factors", "8", "--epochs", "6"]) == 0
    return shop / "releases"


@pytest.fixture(scope="module")
def address(releases):
    """A server process, ended by SIGTERM, which must exit with 0."""
    command = [sys.executable, "-m", "engine.cli", "serve", "--releases", str(releases), "--address", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        yield server.stdout.readline().strip()
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0


@pytest.fixture(scope="module")
def truth(releases):
    return Truth(Release(Repository(releases).current_path()))


class Truth:
    """Brute force over a release's arrays."""

    def __init__(self, release):
        manifest = release.manifest
        n_users, n_items = manifest["sizes"]["users"], manifest["sizes"]["items"]
        d = manifest["parts"][0]["memory"]["factors"]
        self.encoder = manifest["parts"][0]["encoder"]
        self.user_ids = IdTable.over(StringTable.from_arrays(release.table("users/ids", n_users)))
        self.item_ids = IdTable.over(StringTable.from_arrays(release.table("items/ids", n_items)))
        self.users = release.array("parts/0/user_vectors", np.float32, (n_users, d)).astype(np.float64)
        self.items = release.array("parts/0/item_vectors", np.float32, (n_items, d)).astype(np.float64)
        self.starts = release.array("users/history.indptr", np.int64, (None,))
        self.history = release.array("users/history.indices", np.int32, (None,))
        self.values = release.array("users/history.values", np.float32, (None,))
        self.available = release.array("items/available", np.bool_, (n_items,))
        self.popularity = release.array("items/popularity", np.int32, (n_items,))

    def rows(self, ids):
        return [row for row in self.item_ids.rows(ids).tolist() if row >= 0]

    def seen(self, user_id):
        return list(self.weights(user_id))

    def weights(self, user_id):
        """Weight by item row of a user's history."""
        user = self.user_ids.row(user_id)
        entries = slice(self.starts[user], self.starts[user + 1])
        return dict(zip(self.history[entries].tolist(), self.values[entries].tolist(), strict=True))

    def bag_vector(self, weights):
        """The ridge solution of a bag of item rows with their weights."""
        e, n_items, rows = self.encoder, len(self.items), list(weights)
        penalty = e["regularization"] * (len(rows) + e["unobserved_weight"] * n_items) ** e["regularization_exponent"]
        chosen, weight = self.items[rows], np.array([*weights.values()])[:, np.newaxis]
        system = e["unobserved_weight"] * self.items.T @ self.items + chosen.T @ (weight * chosen)
        return np.linalg.solve(system + penalty * np.eye(len(system)), (weight * chosen).sum(axis=0))

    def check(self, answer, scores, excluded, limit):
        """The answer holds exactly the best allowed items, with their scores, in falling order."""
        allowed = self.available.copy()
        allowed[list(excluded)] = False
        rows = self.item_ids.rows(answer.item_ids)
        assert len(answer.item_ids) == len(set(answer.item_ids)) == min(limit, allowed.sum())
        assert allowed[rows].all()
        np.testing.assert_allclose(answer.scores, scores[rows], rtol=1e-4, atol=TOLERANCE)
        assert (np.diff(answer.scores) <= 0).all()
        left_out = np.setdiff1d(np.flatnonzero(allowed), rows)
        if len(left_out) and len(rows):
            assert scores[left_out].max() <= min(answer.scores) + TOLERANCE


def test_every_user_is_answered_as_by_brute_force(address, truth):
    with Client(address) as client:
        for user in range(N_USERS):
            user_id = f"k{user:03}"
            scores = truth.items @ truth.users[truth.user_ids.row(user_id)]
            answer = client.recommend_for_user(user_id, limit=7, exclude_item_ids=["a007", "a037"])
            assert answer.source is Source.PERSONAL
            truth.check(answer, scores, {*truth.seen(user_id), *truth.rows(["a007", "a037"])}, 7)
            truth.check(client.recommend_for_user(user_id, limit=1000, repeat=Repeat.MIX), scores, (), 1000)


def test_users_are_recommended_their_own_taste(address):
    with Client(address) as client:
        own = [
            (int(item_id[1:]) >= N_ITEMS // 2) == (user % 2 == 1)
            for user in range(N_USERS)
            for item_id in client.recommend_for_user(f"k{user:03}", limit=5).item_ids
        ]
    assert len(own) == 5 * N_USERS
    assert np.mean(own) > 0.95  # half of all items are of the other taste


def test_carts_are_answered_as_by_brute_force(address, truth):
    generator = np.random.default_rng(1)
    with Client(address) as client:
        for size in (1, 2, 5, 12, 30, 59, 60):
            cart = [f"a{item:03}" for item in generator.choice(N_ITEMS, size, replace=False)]
            answer = client.recommend_for_cart([*cart, "never heard of"], limit=10)
            rows = truth.rows(cart)
            assert answer.unknown_item_ids == ("never heard of",)
            truth.check(answer, truth.items @ truth.bag_vector(dict.fromkeys(rows, 1.0)), rows, 10)


def test_a_users_recent_items_join_the_history(address, truth):
    with Client(address) as client:
        answer = client.recommend_for_user("k003", recent_item_ids=["a001", "a002"], limit=10)
        weights = truth.weights("k003")
        weights |= {row: max(1.0, weights.get(row, 0.0)) for row in truth.rows(["a001", "a002"])}
        truth.check(answer, truth.items @ truth.bag_vector(weights), list(weights), 10)


def test_a_stranger_gets_what_most_users_have(address, truth):
    with Client(address) as client:
        answer = client.recommend_for_user("nobody", limit=10)
        assert answer.source is Source.POPULAR
        truth.check(answer, truth.popularity.astype(np.float64), (), 10)


def test_an_item_is_similar_to_what_a_cart_of_it_asks_for(address):
    with Client(address) as client:
        similar, cart = client.similar_items("a011", limit=9), client.recommend_for_cart(["a011"], limit=9)
    assert (similar.item_ids, similar.scores) == (cart.item_ids, cart.scores)


def test_a_batch_is_its_singles(address):
    users = [f"k{user:03}" for user in range(0, 40)] + ["nobody"]
    carts = [Cart(["a001"]), Cart(["a002", "a040", "x"]), Cart(["a003"], user_id="k001")]
    with Client(address) as client:
        for together, alone in (
            (client.recommend_for_users(users, limit=6), [client.recommend_for_user(u, limit=6) for u in users]),
            (
                client.recommend_for_carts(carts, limit=6),
                [client.recommend_for_cart(c.item_ids, user_id=c.user_id, limit=6) for c in carts],
            ),
        ):
            assert [(a.item_ids, a.scores, a.source) for a in together] == [
                (a.item_ids, a.scores, a.source) for a in alone
            ]


def test_unavailable_items_train_but_never_come_back(address, truth):
    hidden = {f"a{item:03}" for item in range(0, N_ITEMS, 10)}
    assert truth.items[truth.rows(sorted(hidden))].any(axis=1).all()
    with Client(address) as client:
        for user in range(0, N_USERS, 9):
            assert not hidden & set(client.recommend_for_user(f"k{user:03}", limit=1000, repeat=Repeat.MIX).item_ids)


def test_the_query_command_prints_titles(address, capsys):
    assert main(["query", "cart", "a011", "--limit", "3", "--address", address]) == 0
    printed = capsys.readouterr().out
    assert "Thing " in printed
    assert "3 items, source cart" in printed
    assert main(["query", "cart", "a011", "--limit", "3", "--address", address, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["source"] == "cart"
    assert len(answer["titles"]) == len(answer["item_ids"]) == len(answer["scores"]) == 3


def test_the_manifest_tells_what_was_dropped_and_how_it_was_trained(releases):
    manifest = Release(Repository(releases).current_path()).manifest
    assert manifest["sizes"]["events"] == N_USERS * 12
    assert manifest["events"]["rows_read"] == N_USERS * 12 + 1
    assert manifest["configuration"]["user_column"] == "Kunde"
    assert manifest["index"]["measured"]["user"]["recall@20"] == 1.0
    assert manifest["index"]["measured"]["cart"]["recall@20"] == 1.0


def test_a_rebuilt_index_is_a_new_release_with_the_same_answers(shop, releases, tmp_path, capsys):
    copy = tmp_path / "releases"
    old = Repository(releases).current()
    (copy / old).parent.mkdir()
    subprocess.run(["cp", "-r", str(releases / old), str(copy / old)], check=True)
    arguments = ["index", "--releases", str(copy), "--release", old]
    assert main([*arguments, "--factory", "HNSW16", "--search-parameters", "efSearch=64"]) == 0
    new = capsys.readouterr().out.split()[-1]
    assert Repository(copy).current() == new != old
    assert main([*arguments, "--factory", "NoSuchIndex"]) == 1
    assert "could not build the index 'NoSuchIndex'" in capsys.readouterr().err
    assert main(["releases", "rollback", "--releases", str(copy)]) == 0
    assert Repository(copy).current() == old


def test_the_server_follows_a_promotion_and_a_rollback(shop, releases, tmp_path):
    copy = tmp_path / "releases"
    subprocess.run(["cp", "-r", str(releases), str(copy)], check=True)
    repository = Repository(copy)
    first = repository.current()
    assert main(["index", "--releases", str(copy), "--no-promote"]) == 0
    second = next(each.release_id for each in repository.summaries() if each.release_id != first)
    command = [sys.executable, "-m", "engine.cli", "serve", "--releases", str(copy), "--address", "127.0.0.1:0"]
    command += ["--poll-seconds", "0.02"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        with Client(server.stdout.readline().strip()) as client:
            assert client.release().release_id == first
            for expected in (second, first):
                repository.promote(expected)
                for line in server.stderr:
                    if f"serving release {expected}" in line:
                        break
                assert client.recommend_for_user("k001").release_id == expected
        os.kill(server.pid, signal.SIGTERM)
        server.communicate(timeout=20)
        assert server.returncode == 0
