"""What lost much against the live release does not become live by itself, and by force only with a line in the log."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from small_release import publish, small_shop

from engine.calibration import rebuild_index
from engine.cli import main
from engine.errors import PromotionRefused, ReleaseCorrupt
from engine.gate import Comparison, Gate
from engine.manifest import MANIFEST
from engine.plan import IndexPlan
from engine.repository import CURRENT, Repository
from engine.statuses import refusal_of


def manifest_of(users=100, items=50, events=1000, *, ndcg=None, error=None, recall=None, held_out=None):
    """The numbers of a release that are compared, those that are given."""
    manifest = {"sizes": {"users": users, "items": items, "entries": 1}, "metrics": {}, "index": {}}
    if events is not None:
        manifest["sizes"]["events"] = events
    if ndcg is not None:
        manifest["metrics"]["validation"] = {"user": {"als": 0.9, "blend": ndcg}}
    if error is not None:
        manifest["metrics"]["validation_errors"] = {"user": error}
    if held_out is not None:
        manifest["metrics"]["held_out"] = held_out
    if recall is not None:
        manifest["index"]["measured"] = {"cart": {"recall@20": recall, "queries": 500}}
    return manifest


def failed(manifest, live, **gate):
    return [each.name for each in Gate(**gate).compare(manifest, live) if not each.passes]


def publish_sizes(repository, *, promote=True, **numbers):
    """The smallest release that says it has these numbers."""
    with repository.draft() as draft:
        draft.add_array("array", np.zeros(3))
        return repository.publish(draft, {**manifest_of(**numbers), "parts": [], "attributes": []}, promote=promote)


@pytest.fixture
def empty(tmp_path):
    return Repository(tmp_path / "releases")


# The comparison.


@pytest.mark.parametrize("name", ["users", "items", "events"])
@pytest.mark.parametrize(
    ("live", "least"), [(1000, 800), (10, 8), (11, 9), (1, 1), (0, 0), (4_000_000_007, 3_200_000_006)]
)
def test_a_size_may_fall_by_the_share_and_no_further(name, live, least):
    before = manifest_of(**{name: live})
    assert failed(manifest_of(**{name: least}), before) == []
    assert failed(manifest_of(**{name: 10 * live + 7}), before) == []
    if least:
        assert failed(manifest_of(**{name: least - 1}), before) == [name]


@pytest.mark.parametrize("share", [k / 20 for k in range(21)])
def test_whatever_the_share_the_bound_itself_passes_and_one_less_does_not(share):
    before = manifest_of(users=2000)
    least = 2000 - round(2000 * share)
    assert failed(manifest_of(users=least), before, max_loss=share) == []
    if least:
        assert failed(manifest_of(users=least - 1), before, max_loss=share) == ["users"]


def test_a_share_of_nothing_stops_any_loss_and_of_all_none():
    assert failed(manifest_of(users=99), manifest_of(), max_loss=0) == ["users"]
    assert failed(manifest_of(users=0, items=0, events=0), manifest_of(), max_loss=1) == []


def test_a_metric_may_fall_by_its_share():
    before = manifest_of(ndcg=0.2, recall=0.99)
    assert failed(manifest_of(ndcg=0.18, recall=0.9), before) == []
    assert failed(manifest_of(ndcg=0.179, recall=0.89), before) == [
        "ndcg@20 of held-out user cases",
        "recall@20 of the index for cart queries",
    ]
    assert failed(manifest_of(ndcg=0.179), before, max_metric_loss=0.11) == []


def test_what_chance_explains_did_not_fall():
    """Two samples of cases differ: of 20 cases a mean of .2 has a standard error of .07."""
    assert failed(manifest_of(ndcg=0.1, error=0.05), manifest_of(ndcg=0.2, error=0.05)) == []
    assert failed(manifest_of(ndcg=0.1, error=0.01), manifest_of(ndcg=0.2, error=0.01)) != []
    bound = 0.2 - 1.645 * 0.05  # 1.645 standard errors of the difference, sqrt(.03^2 + .04^2) = .05
    assert failed(manifest_of(ndcg=bound + 1e-4, error=0.03), manifest_of(ndcg=0.2, error=0.04)) == []
    assert failed(manifest_of(ndcg=bound - 1e-4, error=0.03), manifest_of(ndcg=0.2, error=0.04)) != []


def test_what_was_held_out_by_another_rule_is_not_compared():
    live = manifest_of(ndcg=0.2, held_out="basket")
    assert failed(manifest_of(ndcg=0.1, held_out="last"), live) == []
    assert failed(manifest_of(ndcg=0.1, held_out="basket"), live) != []
    assert failed(manifest_of(ndcg=0.1), live) != []
    assert failed(manifest_of(ndcg=0.1, held_out="time:30.0h"), manifest_of(ndcg=0.2, held_out="time:29.5h")) != []


def test_what_only_one_of_them_has_is_not_compared():
    assert failed(manifest_of(events=None), manifest_of(events=10**9)) == []
    assert failed(manifest_of(), manifest_of(ndcg=0.5, recall=0.9)) == []
    assert failed(manifest_of(ndcg=0.0, recall=0.0), manifest_of()) == []


@pytest.mark.parametrize("value", [None, "1", True, [], {}, float("nan"), float("inf"), -1, 10**400])
def test_what_is_no_number_is_not_compared(value):
    strange = manifest_of(ndcg=value, recall=value)
    strange["sizes"] = {"users": value, "items": value, "events": value}
    for each in (strange, {"sizes": value, "metrics": value, "index": value}, {}):
        assert Gate().compare(each, manifest_of(ndcg=0.5, recall=0.9)) == []
        assert Gate().compare(manifest_of(ndcg=0.5, recall=0.9), each) == []


@pytest.mark.parametrize(
    ("comparison", "told"),
    [
        (Comparison("users", 5, 1234567, 987653.6), "users: found 5, live 1,234,567, allowed at least 987,654"),
        (Comparison("ndcg@20", 0.05, 0.25, 0.225), "ndcg@20: found 0.0500, live 0.2500, allowed at least 0.2250"),
    ],
)
def test_a_comparison_says_what_was_found_what_is_live_and_what_is_allowed(comparison, told):
    assert comparison.told == told


# Promoting.


def test_a_release_that_lost_much_is_not_promoted_and_the_error_says_why(empty):
    live = publish_sizes(empty)
    smaller = publish_sizes(empty, promote=False, users=79, items=39, events=801)
    with pytest.raises(PromotionRefused) as refused:
        empty.promote(smaller)
    message = str(refused.value)
    assert refused.value.release_id == smaller
    assert "users: found 79, live 100, allowed at least 80" in message
    assert "items: found 39, live 50, allowed at least 40" in message
    assert "events" not in message
    assert f"live release {live}" in message
    assert f"`nearcart releases promote {smaller} --force`" in message
    assert empty.current() == live
    with pytest.raises(PromotionRefused):
        empty.require_passes(smaller)
    assert refusal_of(refused.value, "").code.name == "FAILED_PRECONDITION"


def test_by_force_it_is_promoted_and_the_log_says_what_it_lost(empty, caplog):
    publish_sizes(empty)
    smaller = publish_sizes(empty, promote=False, users=79)
    empty.promote(smaller, force=True)
    assert empty.current() == smaller
    (warning,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert smaller in warning.getMessage()
    assert "users: found 79, live 100, allowed at least 80" in warning.getMessage()


def test_force_that_was_not_needed_and_force_that_failed_are_not_logged(empty, caplog):
    publish_sizes(empty)
    empty.promote(publish_sizes(empty, promote=False), force=True)
    broken = publish_sizes(empty, promote=False, users=1)
    path = empty.path(broken) / "array.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(ReleaseCorrupt):
        empty.promote(broken, force=True)
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


def test_publishing_passes_the_gate_too_and_leaves_the_release_there(empty):
    live = publish_sizes(empty)
    with pytest.raises(PromotionRefused) as refused:
        publish_sizes(empty, events=1)
    smaller = refused.value.release_id
    assert smaller in str(refused.value)
    assert empty.current() == live
    assert [each.release_id for each in empty.summaries()] == [live, smaller]
    empty.verify(smaller)
    assert [each.name for each in empty.root.iterdir() if each.name.startswith(".")] == []


def test_going_back_passes_no_gate(empty):
    small = publish_sizes(empty, users=10)
    publish_sizes(empty, users=1000)
    assert empty.rollback() == small == empty.current()


def test_what_is_live_can_be_promoted_again(empty):
    live = publish_sizes(empty)
    empty.promote(live)
    assert empty.current() == live


@pytest.mark.parametrize("wrong", ["nothing is live", "a name of nothing", "no manifest", "a file is missing"])
def test_where_there_is_nothing_sound_to_compare_with_everything_passes(empty, wrong):
    live = publish_sizes(empty)
    smaller = publish_sizes(empty, promote=False, users=1)
    if wrong == "nothing is live":
        (empty.root / CURRENT).unlink()
    elif wrong == "a name of nothing":
        (empty.root / CURRENT).write_text("gone\n")
    else:
        (empty.path(live) / (MANIFEST if wrong == "no manifest" else "array.npy")).unlink()
    empty.promote(smaller)
    assert empty.current() == smaller


def test_a_repository_has_the_gate_that_it_is_given(empty):
    publish_sizes(empty)
    loose, strict = (Repository(empty.root, Gate(max_loss=share)) for share in (0.9, 0.01))
    with pytest.raises(PromotionRefused, match="allowed at least 99"):
        publish_sizes(strict, users=98)
    smaller = publish_sizes(loose, users=11)
    assert loose.current() == smaller


def test_an_index_that_finds_much_less_is_published_and_not_promoted(tmp_path):
    repository = Repository(tmp_path)
    live = publish(repository, small_shop(n_items=3000, seed=3))
    with pytest.raises(PromotionRefused, match=r"recall@20 of the index for cart queries: found 0\.\d+, live 1,") as no:
        rebuild_index(repository, live, IndexPlan("IVF64,Flat", "nprobe=1"), 0.0, promote=True)
    assert repository.current() == live
    repository.verify(no.value.release_id)


# The command.


def test_the_command_refuses_with_1_and_forces(empty, capsys):
    live, smaller = publish_sizes(empty), publish_sizes(empty, promote=False, users=50)
    promote = ["releases", "promote", smaller, "--releases", str(empty.root)]
    assert main(promote) == 1
    assert "users: found 50, live 100, allowed at least 80" in capsys.readouterr().err
    assert empty.current() == live
    assert main([*promote, "--max-loss", "0.49"]) == 1
    assert "allowed at least 51" in capsys.readouterr().err
    assert main([*promote, "--max-loss", "0.5"]) == 0
    assert empty.current() == smaller
    empty.promote(live)
    assert main([*promote, "--force"]) == 0
    assert empty.current() == smaller


@pytest.mark.parametrize("flags", [["--max-loss", "0.5"], ["--max-metric-loss", "0.5"]])
def test_shares_mean_nothing_elsewhere(empty, capsys, flags):
    assert main(["releases", "list", *flags, "--releases", str(empty.root)]) == 2
    assert f"{flags[0]} means nothing" in capsys.readouterr().err
    assert main(["releases", "promote", "x", flags[0], "1.5", "--releases", str(empty.root)]) == 2


def events_file(path, n_users):
    lines = ["user_id,item_id"]
    lines += [f"u{user},i{(user * 7 + place) % 20}" for user in range(n_users) for place in range(1, 5)]
    path.write_text("\n".join(lines))
    return str(path)


def test_a_training_with_fewer_users_publishes_does_not_promote_and_exits_with_1(tmp_path, capsys):
    releases, checkpoint = tmp_path / "releases", tmp_path / "checkpoint"
    options = ["--releases", str(releases), "--factors", "4", "--epochs", "1", "--quiet"]
    options += ["--checkpoint", str(checkpoint)]
    assert main(["train", events_file(tmp_path / "many.csv", 40), *options]) == 0
    live = capsys.readouterr().out.strip()
    few = events_file(tmp_path / "few.csv", 20)
    assert main(["train", few, *options]) == 1
    found = capsys.readouterr()
    repository = Repository(releases)
    (smaller,) = [each.release_id for each in repository.summaries() if each.release_id != live]
    assert f"release {smaller} is whole but not promoted" in found.err
    assert "users: found 20, live 40, allowed at least 32" in found.err
    assert found.out == ""
    assert repository.current() == live
    assert not checkpoint.exists(), "what it leads to is published"
    assert main(["train", few, *options, "--max-loss", "0.6"]) == 0
    assert repository.current() == capsys.readouterr().out.strip()


def test_a_training_writes_what_is_compared(tmp_path, capsys):
    """Of a blend also what was held out, by which rule, and the standard error of what was found."""
    generator = np.random.default_rng(0)
    lines = ["user_id,item_id,timestamp,basket_id"]
    for user in range(120):
        for basket in range(3):
            items = generator.choice(20, 4, replace=False).tolist()
            lines += [f"u{user},i{item},2026-01-0{basket + 1},{user}-{basket}" for item in items]
    (tmp_path / "events.csv").write_text("\n".join(lines))
    options = ["--releases", str(tmp_path / "releases"), "--model", "neighbours", "--quiet"]
    assert main(["train", str(tmp_path / "events.csv"), *options]) == 0
    repository = Repository(tmp_path / "releases")
    manifest = json.loads((repository.current_path() / MANIFEST).read_text())
    metrics = manifest["metrics"]
    assert metrics["held_out"] == "basket"
    assert metrics["validation_errors"].keys() == metrics["validation"].keys() >= {"cart", "user"}
    assert all(0 < error < 0.5 for error in metrics["validation_errors"].values())
    comparisons = Gate().compare(manifest, manifest)
    names = [each.name for each in comparisons]
    assert names[:3] == ["users", "items", "events"]
    assert {"ndcg@20 of held-out cart cases", "ndcg@20 of held-out user cases"} <= set(names)
    assert all(each.passes for each in comparisons)
