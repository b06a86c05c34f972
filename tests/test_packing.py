"""Releases with vectors in 8 and 16 bits: what stands in them, what it costs, and every command on them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import reference
from pyarrow import parquet
from small_release import publish, small_shop

from engine import packing
from engine.calibration import check_index, rebuild_index
from engine.canaries import SCORED
from engine.cli import main
from engine.encoders import RidgeEncoder
from engine.errors import ReleaseCorrupt, ReleaseIncompatible, UsageError
from engine.histories import Histories
from engine.manifest import manifest_checksum
from engine.packing import add_vectors
from engine.parts import DensePart
from engine.plan import IndexPlan
from engine.queries import UserQuery
from engine.release import MANIFEST, Draft, Release, _sha256
from engine.repository import Repository
from engine.retrieval import Snapshot
from engine.vector_table import packed

PACKED = ["int16", "int8"]
TABLES = [f"parts/0/{side}_{what}.npy" for side in ("item", "user") for what in ("vectors", "scales")]


@pytest.fixture(scope="module")
def large_shop():
    return small_shop(n_items=700, seed=2)


@pytest.fixture(params=PACKED)
def vector_format(request):
    return request.param


@pytest.fixture
def packed_repository(large_shop, vector_format, tmp_path):
    """A release whose vectors were packed when it was published."""
    repository = Repository(tmp_path / "packed")
    publish(repository, large_shop, vectors=vector_format)
    return repository


def live(repository):
    release = Release(repository.current_path())
    return release, DensePart.of(release.manifest)


def encoded(encoder, shop):
    entries = [slice(*shop.indptr[user : user + 2]) for user in range(len(shop.user_ids))]
    return np.stack([encoder.encode(shop.indices[each], shop.values[each]) for each in entries])


def test_a_packed_release_has_codes_scales_and_its_own_spectrum(packed_repository, large_shop, vector_format):
    release, part = live(packed_repository)
    assert part.vectors == release.manifest["parts"][0]["vectors"] == vector_format
    expected = packed(large_shop.item_vectors, vector_format)
    found = part.item_vectors(release)
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_array_equal(found.scales, expected.scales)
    energies = np.square(found[:].astype(np.float64)).sum(axis=0)
    np.testing.assert_allclose(part.encoder(release).spectrum, energies, rtol=1e-6)


def test_a_stored_history_folds_in_to_the_codes_of_its_user(packed_repository, large_shop, vector_format):
    release, part = live(packed_repository)
    expected = packed(encoded(part.encoder(release), large_shop), vector_format)
    np.testing.assert_array_equal(part.user_vectors(release).codes, expected.codes)
    np.testing.assert_array_equal(part.user_vectors(release).scales, expected.scales)


def test_users_are_the_same_bits_for_any_threads_and_blocks(large_shop, vector_format, tmp_path, monkeypatch):
    shop = large_shop
    encoder = RidgeEncoder(shop.item_vectors, shop.spectrum, 0.1, 0.02, 0.8)
    histories = Histories(shop.indptr, shop.indices, shop.values)
    tables = []
    for threads, users, chunk in ((1, 1 << 16, 512), (3, 7, 2)):
        monkeypatch.setattr(packing, "_USERS_AT_ONCE", users)
        monkeypatch.setattr(packing, "_CHUNK", chunk)
        with Draft(tmp_path, f"r{threads}") as draft:
            _, found = add_vectors(draft, encoder, shop.user_vectors, histories, vector_format, threads)
            tables.append((found.codes.copy(), found.scales.copy()))
    for one, other in zip(*tables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_packing_costs_is_measured_from_end_to_end(packed_repository, large_shop, vector_format):
    """The float64 scores, in the shop that was packed, of what the packed release finds exactly."""
    release, part = live(packed_repository)
    told = release.manifest["packing"]
    assert (told["from"], told["to"]) == ("float32", vector_format)
    items, users = part.item_vectors(release)[:].astype(np.float64), part.user_vectors(release)[:].astype(np.float64)
    recalls = []
    for user in range(len(large_shop.user_ids)):
        seen = large_shop.indices[large_shop.indptr[user] : large_shop.indptr[user + 1]]
        true = large_shop.item_vectors.astype(np.float64) @ large_shop.user_vectors[user].astype(np.float64)
        own = items @ users[user]
        for scores in (true, own):
            scores[~large_shop.available] = scores[seen] = -np.inf
        best = true[reference.best_rows(true, 20)]
        found = true[reference.best_rows(own, 20)]
        recalls.append(np.mean(found >= best[-1] - 1e-7 * abs(best[-1])) if len(best) else 1.0)
    assert told["measured"]["user"]["queries"] == len(recalls)
    assert told["measured"]["user"]["recall@20"] == pytest.approx(np.mean(recalls), abs=0.004)
    assert told["measured"]["user"]["recall@20"] > (0.995 if vector_format == "int16" else 0.9)
    assert told["measured"]["cart"]["queries"] == 10
    if vector_format == "int8":
        assert told["measured"]["user"]["recall@20"] < 1


def test_vectors_in_float32_are_written_as_they_are_and_have_no_scales(small_repository, shop):
    release, part = live(small_repository)
    assert part.vectors == "float32"
    assert "packing" not in release.manifest
    assert not any("scales" in name for name in release.manifest["files"] if name.startswith("parts/"))
    np.testing.assert_array_equal(part.item_vectors(release).codes, shop.item_vectors)
    np.testing.assert_array_equal(part.user_vectors(release).codes, shop.user_vectors)


def test_rows_that_are_written_in_blocks_are_the_file_of_the_whole_array(tmp_path):
    array = np.arange(35, dtype=np.int16).reshape(7, 5)
    with Draft(tmp_path, "r") as draft:
        draft.add_blocks("one", np.int16, (7, 5), (array[start : start + 3] for start in (0, 3, 6)))
        draft.add_array("other", array)
        assert draft.verified_path("one.npy").read_bytes() == draft.verified_path("other.npy").read_bytes()


# Rebuilding.


def test_a_rebuild_packs_and_answers_and_leaves_the_rest_alone(repository, vector_format):
    old = Release(repository.current_path())
    _, index = rebuild_index(repository, old.release_id, IndexPlan(), 0.9, promote=True, vectors=vector_format)
    new, part = live(repository)
    assert part.vectors == vector_format
    assert new.manifest["index"] == index
    assert new.manifest["packing"]["from"] == "float32"
    new.verify()
    made = (*TABLES, "parts/0/spectrum.npy", *(f"{name}.npy" for name in SCORED))
    for name in old.manifest["files"]:
        if not name.startswith("index/") and name not in made:
            assert new.manifest["files"][name] == old.manifest["files"][name]
    before, after = Snapshot.open(old.directory), Snapshot.open(new.directory)
    for user in ("u1", "u20"):
        one, other = (each.recommend_for_users([UserQuery(user, 5)])[0] for each in (before, after))
        np.testing.assert_allclose(other.scores, one.scores, rtol=0, atol=0.05 * one.scores.max())
    for _, measured in check_index(new, 1):
        assert measured.recall == 1.0


def test_a_rebuild_without_a_format_keeps_the_one_that_is_there(packed_repository, vector_format):
    old, _ = live(packed_repository)
    rebuild_index(packed_repository, old.release_id, IndexPlan("Quantized1", "deviations=4"), 0.9, promote=True)
    new, part = live(packed_repository)
    assert part.vectors == vector_format
    assert new.manifest["packing"] == old.manifest["packing"]
    for name in TABLES:
        assert new.manifest["files"][name] == old.manifest["files"][name]


def test_packed_vectors_can_be_packed_once_more_and_never_back(large_shop, tmp_path):
    repository = Repository(tmp_path / "r")
    first = publish(repository, large_shop, vectors="int16")
    second, _ = rebuild_index(repository, first, IndexPlan(), 0.9, promote=True, vectors="int8")
    assert Release(repository.path(second)).manifest["packing"]["from"] == "int16"
    Snapshot.open(repository.path(second))
    names = sorted(path.name for path in repository.root.iterdir())
    for wanted in ("int16", "float32"):
        with pytest.raises(UsageError, match=f"--vectors {wanted}: found int8 in release {second}"):
            rebuild_index(repository, second, IndexPlan(), 0.9, promote=True, vectors=wanted)
    assert sorted(path.name for path in repository.root.iterdir()) == names


# What is damaged.


def replaced(directory, name, array):
    """Put another array into a release whose manifest vouches for it."""
    np.save(directory / name, array)
    manifest = json.loads((directory / MANIFEST).read_text())
    entry = {"size_bytes": (directory / name).stat().st_size, "sha256": _sha256(directory / name)}
    rewritten(directory, {**manifest, "files": {**manifest["files"], name: entry}})


def rewritten(directory, manifest):
    manifest["checksum"] = manifest_checksum(manifest)
    (directory / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0])
def test_a_scale_of_an_item_that_is_none_is_found_when_opening(packed_repository, scale):
    directory, name = packed_repository.current_path(), "parts/0/item_scales.npy"
    scales = np.load(directory / name)
    scales[-1] = scale
    replaced(directory, name, scales)
    with pytest.raises(ReleaseCorrupt, match="the scale of a vector is"):
        Snapshot.open(directory)


def test_a_scale_of_a_user_that_is_none_is_found_when_the_user_asks(packed_repository):
    directory, name = packed_repository.current_path(), "parts/0/user_scales.npy"
    scales = np.load(directory / name)
    scales[3] = np.nan
    replaced(directory, name, scales)
    snapshot = Snapshot.open(directory)
    assert len(snapshot.recommend_for_users([UserQuery("u2", 5)])[0].item_ids) == 5
    with pytest.raises(ReleaseCorrupt, match="the scale of a vector is nan"):
        snapshot.recommend_for_users([UserQuery("u3", 5)])


@pytest.mark.parametrize("name", TABLES)
def test_arrays_of_another_shape_or_dtype_are_found_when_opening(packed_repository, name):
    directory = packed_repository.current_path()
    array = np.load(directory / name)
    for wrong in (array[:-1], array.astype(np.float64)):
        replaced(directory, name, wrong)
        with pytest.raises(ReleaseCorrupt, match=name):
            Snapshot.open(directory)


def test_a_manifest_that_names_another_format_is_found_when_opening(packed_repository):
    directory = packed_repository.current_path()
    manifest = json.loads((directory / MANIFEST).read_text())
    manifest["parts"][0]["vectors"] = "float32"
    rewritten(directory, manifest)
    with pytest.raises(ReleaseCorrupt, match=r"user_vectors.npy holds int\d+ of 40 x 8, .* float32 of 40 x 8"):
        Snapshot.open(directory)
    manifest["parts"][0]["vectors"] = "int4"
    rewritten(directory, manifest)
    with pytest.raises(ReleaseIncompatible, match="'int4'; this program reads float32, int16, int8"):
        Snapshot.open(directory)


# By the command line.


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    file = tmp_path_factory.mktemp("events") / "events.csv"
    generator = np.random.default_rng(0)
    rows = [f"u{user},i{item}" for user in range(60) for item in generator.choice(40, 9, replace=False) + user % 2 * 20]
    file.write_text("\n".join(["user_id,item_id", *rows]) + "\n")
    return file


def test_a_training_can_publish_packed_vectors_and_every_command_reads_them(
    events, tmp_path, vector_format, capsys, caplog
):
    releases = str(tmp_path / "releases")
    command = ["train", str(events), "--releases", releases, "--factors", "8", "--epochs", "3", "--threads", "1"]
    assert main([*command, "--quiet", "--vectors", vector_format]) == 0
    release, part = live(Repository(tmp_path / "releases"))
    assert part.vectors == vector_format
    assert release.manifest["configuration"]["vectors"] == vector_format
    told = (
        rf"vectors in {vector_format}, packed from float32: recall@20 of those user (0\.9|1\.0)\d+, cart (0\.9|1\.0)\d+"
    )
    assert re.search(told, caplog.text)
    assert main([*command, "--quiet", "--warm-start", "live", "--vectors", vector_format]) == 0
    second, part = live(Repository(tmp_path / "releases"))
    assert second.manifest["aligned_to"] == release.release_id
    capsys.readouterr()
    assert main(["index", "--releases", releases]) == 0
    assert re.search(told, capsys.readouterr().out)
    release, part = live(Repository(tmp_path / "releases"))
    assert main(["releases", "verify", "--releases", releases]) == 0
    assert main(["index", "--releases", releases, "--check"]) == 0
    files = [str(tmp_path / name) for name in ("items.parquet", "users.parquet", "answers")]
    assert main(["export", "--releases", releases, "--items", files[0], "--users", files[1]]) == 0
    for file, vectors in ((files[0], part.item_vectors(release)), (files[1], part.user_vectors(release))):
        found = np.stack(parquet.read_table(file)["vector"].to_numpy())
        np.testing.assert_allclose(found, vectors[:] @ part.export_rotation(release), rtol=1e-5, atol=1e-6)
    assert main(["recommend-all", "--releases", releases, "--output", files[2], "--limit", "5"]) == 0
    answered = {row["user_id"]: row["item_ids"] for row in parquet.read_table(files[2]).to_pylist()}
    snapshot = Snapshot.open(release.directory)
    for user in ("u0", "u59"):
        served = snapshot.recommend_for_users([UserQuery(user, 5)])[0]
        assert answered[user] == list(served.item_ids)


@pytest.mark.parametrize("other", [["--check"], ["--fold-in", "events.csv"]])
def test_a_format_means_nothing_where_nothing_is_packed(repository, other, capsys):
    assert main(["index", "--releases", str(repository.root), "--vectors", "int8", *other]) == 2
    assert "--vectors rebuilds a release in another format" in capsys.readouterr().err
