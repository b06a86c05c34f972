"""A release is read for ever, or refused with a reason: the golden release, and every way one can be broken."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest
from small_release import GOLDEN_ID

from engine.errors import ReleaseCorrupt, ReleaseIncompatible, ReleaseNotFound
from engine.queries import CartQuery, Repeat, SimilarQuery, Source, UserQuery
from engine.release import INDEX_FILE, MANIFEST, Draft, Release
from engine.repository import Repository
from engine.retrieval import Snapshot

DATA = Path(__file__).parent / "data"
VERSIONS = (1, 2)
GOLDEN = DATA / "golden_v2"
FILES = sorted(json.loads((GOLDEN / GOLDEN_ID / MANIFEST).read_text(encoding="utf-8"))["files"])


@pytest.fixture
def directory(tmp_path):
    """A copy of the newest golden release, to break."""
    return shutil.copytree(GOLDEN / GOLDEN_ID, tmp_path / GOLDEN_ID)


def flip(path, position=None):
    """Flip one bit in the middle of a file, or in the given byte."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 4
    path.write_bytes(content)


def rewrite(directory, change):
    """Change the manifest and give it a valid checksum, as another program that writes releases would."""
    path = directory / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["checksum"]
    change(manifest)
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    manifest["checksum"] = hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps(manifest), encoding="utf-8")


def replace_file(directory, name, write):
    """Write one file anew and vouch for it in the manifest."""
    path = directory / name
    write(path)

    def vouch(manifest):
        content = path.read_bytes()
        manifest["files"][name] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    rewrite(directory, vouch)


# The golden releases of one shop: these numbers never change while their format versions are read.


@pytest.mark.parametrize("version", VERSIONS)
def test_a_golden_release_is_sound_and_live(version):
    repository = Repository(DATA / f"golden_v{version}")
    assert repository.current() == GOLDEN_ID
    repository.verify(GOLDEN_ID)
    (summary,) = repository.summaries()
    assert (summary.release_id, summary.problem, summary.is_current) == (GOLDEN_ID, None, True)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_golden_release_says_what_it_is(version):
    snapshot = Snapshot.open(DATA / f"golden_v{version}" / GOLDEN_ID)
    assert snapshot.release_id == GOLDEN_ID
    assert snapshot.manifest["format_version"] == version
    assert snapshot.manifest["sizes"] == {"users": 6, "items": 16, "entries": 30, "events": 60}
    names = ["title", "category", "price", "giftable", *(["added", "tags"] if version > 1 else [])]
    assert [each["name"] for each in snapshot.manifest["attributes"]] == names
    assert snapshot.titles(["teacup", "чайник", "0123", "gone"]) == ["Tasse № 0", "Tasse № 2", "", ""]


GOLDEN_ANSWERS = {
    "a known user": (
        lambda snapshot: snapshot.recommend_for_users([UserQuery("ann", 5)])[0],
        Source.PERSONAL,
        {"0123": 0.41018686, "spoon": 0.4062636, "lamp": 0.2094137, "teacup": 0.14135364, "i14": 0.0},
    ),
    "a known user with an id that is not ASCII": (
        lambda snapshot: snapshot.recommend_for_users([UserQuery("борис", 3)])[0],
        Source.PERSONAL,
        {"mug": 1.5727179, "spoon": 0.42611137, "чайник": 0.27872974},
    ),
    "an unknown user": (
        lambda snapshot: snapshot.recommend_for_users([UserQuery("nobody", 5)])[0],
        Source.POPULAR,
        {"i11": 4, "plate": 3, "i12": 3, "i15": 3, "teacup": 2},
    ),
    "an unknown user with recent items": (
        lambda snapshot: snapshot.recommend_for_users([UserQuery("new", 5, recent_item_ids=["teacup", "gone"])])[0],
        Source.PERSONAL,
        {"чайник": 0.31587043, "lamp": 0.23978, "plate": 0.10859645, "湯呑み": 0.00453564, "i10": 0.00453564},
    ),
    "a cart": (
        lambda snapshot: snapshot.recommend_for_carts([CartQuery(["чайник"], limit=3)])[0],
        Source.CART,
        {"teacup": 0.3162474, "lamp": 0.25423408, "0123": 0.18051662},
    ),
    "a cart and its user": (
        lambda snapshot: snapshot.recommend_for_carts([CartQuery(["teacup", "café ☕"], "陳", 3)])[0],
        Source.CART,
        {"lamp": 0.16065758, "чайник": 0.15416624, "i13": 0.03918643},
    ),
    "similar items": (
        lambda snapshot: snapshot.similar_items(SimilarQuery("湯呑み", 5)),
        Source.SIMILAR,
        {"i10": 0.02937479, "i11": 0.02937479, "i13": 0.00871684, "teacup": 0.00761677, "i14": 0.0},
    ),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", GOLDEN_ANSWERS)
def test_a_golden_release_answers_as_on_its_first_day(name, version):
    ask, source, expected = GOLDEN_ANSWERS[name]
    answer = ask(Snapshot.open(DATA / f"golden_v{version}" / GOLDEN_ID))
    assert answer.source is source
    assert answer.item_ids == list(expected)
    np.testing.assert_allclose(answer.scores, list(expected.values()), rtol=1e-4, atol=1e-6)


GOLDEN_HISTORIES = [
    ["i11", "i12", "i15", "mug", "plate", "чайник"],
    ["0123", "i11", "i12"],
    ["i12", "i13", "i14", "i15", "mug", "teacup"],
]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_golden_release_still_knows_each_history(version):
    snapshot = Snapshot.open(DATA / f"golden_v{version}" / GOLDEN_ID)
    seen = snapshot.recommend_for_users([UserQuery(user, 100, repeat=Repeat.ONLY) for user in ("ann", "борис", "陳")])
    assert [sorted(answer.item_ids) for answer in seen] == GOLDEN_HISTORIES


# Files that are missing, cut or changed.


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_found_when_opening(directory, name):
    (directory / name).unlink()
    with pytest.raises(ReleaseCorrupt, match=f"{Path(name).name} is missing|has no manifest"):
        Release(directory)


@pytest.mark.parametrize("lost", [1, 64, "all"])
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_truncated_file_is_found_when_opening(directory, name, lost):
    content = (directory / name).read_bytes()
    (directory / name).write_bytes(b"" if lost == "all" else content[:-lost])
    if name == MANIFEST and lost == 1:
        # Its last byte is the line's end, which says nothing.
        Release(directory).verify()
    else:
        with pytest.raises(ReleaseCorrupt, match=f"{Path(name).name} (has|is not JSON)"):
            Release(directory)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_grew_is_found_when_opening(directory, name):
    with (directory / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ReleaseCorrupt, match="has"):
        Release(directory)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_by_verifying(directory, name):
    flip(directory / name)
    release = Release(directory)
    with pytest.raises(ReleaseCorrupt, match=f"{Path(name).name} has SHA-256"):
        release.verify()


def test_a_flipped_bit_in_the_manifest_is_found_or_changes_no_meaning(directory):
    path = directory / MANIFEST
    content = path.read_bytes()
    meaning = json.loads(content)
    unnoticed = 0
    for position in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            manifest = Release(directory).manifest
        except ReleaseCorrupt:
            continue
        assert manifest == meaning, position
        unnoticed += 1
    # Such as the case of an exponent's e, or of a digit of \\u0e3f.
    assert unnoticed < 3


def test_a_flipped_bit_in_the_index_is_found_before_faiss_reads_it(directory, monkeypatch):
    flip(directory / INDEX_FILE)
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("FAISS was handed a damaged file"))
    with pytest.raises(ReleaseCorrupt, match=r"index\.faiss has SHA-256"):
        Snapshot.open(directory)


def test_a_flipped_bit_in_the_table_is_found_before_it_costs_answers(directory):
    flip(directory / "index" / "errors.npy")
    with pytest.raises(ReleaseCorrupt, match=r"errors\.npy has SHA-256"):
        Snapshot.open(directory)


def test_a_table_that_names_rows_that_are_not_there_is_refused(directory):
    order = np.load(directory / "index" / "order.npy")
    order[3] = 16
    replace_file(directory, "index/order.npy", lambda path: np.save(path, order))
    with pytest.raises(ReleaseCorrupt, match="names rows outside the 16 of the release"):
        Snapshot.open(directory)


def test_a_directory_without_a_manifest_is_no_release(tmp_path):
    with pytest.raises(ReleaseCorrupt, match="has no manifest"):
        Release(tmp_path)


def test_what_is_not_a_directory_is_not_found(tmp_path):
    (tmp_path / "file").touch()
    for name in ("file", "nothing"):
        with pytest.raises(ReleaseNotFound, match="not a directory"):
            Release(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"\xff\xfe", b'{"format_version": 1}', b"[" * 100_000])
def test_a_manifest_that_is_something_else_is_refused(directory, content):
    (directory / MANIFEST).write_bytes(content)
    with pytest.raises(ReleaseCorrupt, match="manifest"):
        Release(directory)


# Manifests and files that are intact, and wrong.


def test_a_later_format_is_told_from_damage_whatever_its_checksum(directory):
    content = json.loads((directory / MANIFEST).read_bytes())
    (directory / MANIFEST).write_text(json.dumps({**content, "format_version": 3, "checksum": "by another rule"}))
    with pytest.raises(ReleaseIncompatible, match="of format version 3"):
        Release(directory)


def test_a_release_under_another_name_is_refused(directory):
    renamed = directory.rename(directory.with_name("another"))
    with pytest.raises(ReleaseCorrupt, match="a release keeps its name"):
        Release(renamed)


@pytest.mark.parametrize(("section", "field"), [("encoder", "regularization"), ("memory", "factors")])
def test_a_part_without_a_field_that_answering_needs_is_refused(directory, section, field):
    rewrite(directory, lambda manifest: manifest["parts"][0][section].pop(field))
    with pytest.raises(ReleaseCorrupt, match=field):
        Snapshot.open(directory)


def test_an_index_without_its_factory_is_refused(directory):
    rewrite(directory, lambda manifest: manifest["index"].pop("factory"))
    with pytest.raises(ReleaseCorrupt, match="factory"):
        Snapshot.open(directory)


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_another_format_version_is_refused_by_name(directory, version):
    rewrite(directory, lambda manifest: manifest.update(format_version=version))
    with pytest.raises(ReleaseIncompatible, match=f"of format version {version}; this program reads versions 1 and 2"):
        Release(directory)


@pytest.mark.parametrize(
    "field", ["release_id", "created_at", "files", "sizes", "parts", "index", "attributes", "format_version"]
)
def test_a_manifest_that_lacks_a_field_is_refused(directory, field):
    rewrite(directory, lambda manifest: manifest.pop(field))
    with pytest.raises(ReleaseCorrupt, match=field):
        Release(directory)


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("field", ["users", "items", "entries"])
def test_sizes_that_disagree_with_the_arrays_are_found_when_opening(directory, field, by):
    rewrite(directory, lambda manifest: manifest["sizes"].update({field: manifest["sizes"][field] + by}))
    with pytest.raises(ReleaseCorrupt, match="the manifest"):
        Snapshot.open(directory)


def test_factors_that_disagree_with_the_arrays_are_found_when_opening(directory):
    rewrite(directory, lambda manifest: manifest["parts"][0]["memory"].update(factors=4))
    with pytest.raises(ReleaseCorrupt, match=r"parts/0/user_vectors.npy holds float32 of 6 x 3.* float32 of 6 x 4"):
        Snapshot.open(directory)


@pytest.mark.parametrize("by", [-1, 1])
def test_histories_that_end_before_or_after_the_entries_are_found_when_opening(directory, by):
    name = "users/history.indptr.npy"
    starts = np.load(directory / name)
    starts[-1] += by
    replace_file(directory, name, lambda path: np.save(path, starts))
    with pytest.raises(ReleaseCorrupt, match=f"histories end at {30 + by}, the manifest says 30 entries"):
        Snapshot.open(directory)


@pytest.mark.parametrize("field", ["users", "items", "entries"])
def test_a_size_that_is_not_given_is_found_when_opening(directory, field):
    rewrite(directory, lambda manifest: manifest["sizes"].pop(field))
    with pytest.raises(ReleaseCorrupt, match=field):
        Snapshot.open(directory)


@pytest.mark.parametrize("parts", [[], ["ridge", "ridge"], ["attention"]])
def test_parts_that_this_program_cannot_serve_are_refused(directory, parts):
    def change(manifest):
        part = manifest["parts"][0]
        manifest["parts"] = [{**part, "encoder": {**part["encoder"], "kind": kind}} for kind in parts]

    rewrite(directory, change)
    with pytest.raises(ReleaseIncompatible, match="this program serves one"):
        Snapshot.open(directory)


READ_WHEN_OPENING = [name for name in FILES if name.endswith(".npy")]


@pytest.mark.parametrize("name", READ_WHEN_OPENING)
def test_an_array_that_the_manifest_does_not_list_is_missed(directory, name):
    rewrite(directory, lambda manifest: manifest["files"].pop(name))
    with pytest.raises(ReleaseCorrupt, match=f"no array '{name[:-4]}'"):
        Snapshot.open(directory)


@pytest.mark.parametrize("name", READ_WHEN_OPENING)
def test_an_array_of_another_type_is_found_when_opening(directory, name):
    array = np.load(directory / name)
    replace_file(
        directory,
        name,
        lambda path: np.save(path, array.astype(array.dtype.newbyteorder(">") if array.itemsize > 1 else np.int16)),
    )
    with pytest.raises(ReleaseCorrupt, match="holds"):
        Snapshot.open(directory)


# More carts than canaries may stand there: only as many are asked as have scores.
@pytest.mark.parametrize("name", [name for name in READ_WHEN_OPENING if name != "canaries/carts.indptr.npy"])
def test_an_array_of_another_length_is_found_when_opening(directory, name):
    array = np.load(directory / name)
    replace_file(directory, name, lambda path: np.save(path, np.concatenate([array, array])))
    with pytest.raises(ReleaseCorrupt):
        Snapshot.open(directory)


@pytest.mark.parametrize("name", READ_WHEN_OPENING)
def test_an_array_of_pickled_objects_is_never_loaded(directory, name):
    array = np.load(directory / name).astype(object)
    replace_file(directory, name, lambda path: np.save(path, array, allow_pickle=True))
    with pytest.raises(ReleaseCorrupt, match="is not a readable array"):
        Snapshot.open(directory)


def test_vectors_of_another_training_are_found_by_the_canaries(directory):
    name = "parts/0/item_vectors.npy"
    vectors = np.load(directory / name)
    replace_file(directory, name, lambda path: np.save(path, vectors * np.float32(1.01)))
    with pytest.raises(ReleaseCorrupt, match="canary 0 scores"):
        Snapshot.open(directory)


@pytest.mark.parametrize(("n", "factors"), [(15, 3), (16, 2)])
def test_an_index_of_another_catalogue_is_found_when_opening(directory, n, factors):
    index = faiss.IndexFlatIP(factors)
    index.add(np.ones((n, factors), dtype=np.float32))
    replace_file(directory, INDEX_FILE, lambda path: faiss.write_index(index, str(path)))
    with pytest.raises(ReleaseCorrupt, match=f"holds {n} vectors of {factors} factors, but the release has 16 of 3"):
        Snapshot.open(directory)


def test_an_index_that_faiss_cannot_read_is_corrupt(directory):
    replace_file(directory, INDEX_FILE, lambda path: path.write_bytes(b"not an index"))
    with pytest.raises(ReleaseCorrupt, match="FAISS cannot read the index"):
        Snapshot.open(directory)


# Opening.


def test_opening_touches_a_few_pages_of_the_users_files_however_many_there_are(directory):
    """A hundred million users, in files that are all hole but for the last entries."""
    maps = Path("/proc/self/smaps")
    if not maps.exists():
        pytest.skip("needs Linux: how much of a file is mapped is read from /proc/self/smaps")
    n = 100_000_000
    arrays = {
        "users/ids.offsets": (np.int64, (n + 1,), 8 * n),
        "users/ids.data": (np.uint8, (8 * n,), None),
        "users/ids.slots": (np.int32, (2**28,), None),
        "users/history.indptr": (np.int64, (n + 1,), 10 * n),
        "users/history.indices": (np.int32, (10 * n,), None),
        "users/history.values": (np.float32, (10 * n,), None),
        "parts/0/user_vectors": (np.float32, (n, 3), None),
    }
    sizes = {}
    for name, (dtype, shape, last) in arrays.items():
        path = directory / f"{name}.npy"
        hole = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if last is not None:
            hole[-1] = last
        del hole
        sizes[f"{name}.npy"] = path.stat().st_size

    def change(manifest):
        manifest["sizes"].update(users=n, entries=10 * n)
        for name, size in sizes.items():
            manifest["files"][name] = {"size_bytes": size, "sha256": "0" * 64}

    rewrite(directory, change)
    snapshot = Snapshot.open(directory)
    resident, of_users = 0, False
    for line in maps.read_text(encoding="utf-8").splitlines():
        if "-" in line.split()[0] and not line.split()[0].endswith(":"):
            of_users = f"{directory}/users/" in line or line.endswith("user_vectors.npy")
        elif of_users and line.startswith("Rss:"):
            resident += int(line.split()[1]) * 1024
    assert 0 < resident < 4 * 2**20 < sum(sizes.values()) / 1000
    assert snapshot.recommend_for_carts([CartQuery(["чайник"], limit=1)])[0].item_ids == ["teacup"]


@pytest.mark.parametrize("shape", [(0,), (0, 3), (1,), (2, 3)])
def test_an_array_comes_back_as_it_was_written_and_cannot_be_changed(tmp_path, shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    with Draft(tmp_path, "r") as draft:
        draft.add_array("a/b", np.asfortranarray(array))
        fields = {"created_at": "", "sizes": {}, "parts": [], "index": {}, "attributes": []}
        release_id = Repository(tmp_path).publish(draft, fields, promote=False)
    release = Release(tmp_path / release_id)
    release.verify()
    found = release.array("a/b", np.float32, tuple([None] * len(shape)))
    np.testing.assert_array_equal(found, array, strict=True)
    assert not found.flags.writeable
    assert found.flags.c_contiguous
    with pytest.raises(ReleaseCorrupt, match="holds float32"):
        release.array("a/b", np.float64, shape)
    with pytest.raises(ReleaseCorrupt, match="sizes say float32 of"):
        release.array("a/b", np.float32, (*shape, 1))


def test_a_manifest_cannot_be_changed(directory):
    with pytest.raises(TypeError):
        Release(directory).manifest["sizes"] = {}
