"""Releases from hostile hands: whatever became of a file or of the manifest, a release is refused with a reason.

Damage is found when a release is opened or verified, before FAISS is handed a file. A manifest can be written anew,
checksum and all, by whoever writes releases: it leads to nothing outside the directory, and what it gets wrong is a
NearcartError. Nothing anywhere unpickles.
"""

from __future__ import annotations

import builtins
import contextlib
import copy
import hashlib
import io
import json
import os
import re
import shutil
import warnings
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from small_release import GOLDEN_ID, write_golden

from engine.errors import NearcartError, ReleaseCorrupt, ReleaseError
from engine.manifest import MANIFEST, manifest_checksum
from engine.release import Release
from engine.repository import Repository
from engine.retrieval import Snapshot

ROOT = Path(__file__).parents[1]
SLOW_TO_SET_UP = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The golden release's shop, by the program of today; read only."""
    root = tmp_path_factory.mktemp("original")
    write_golden(root)
    return root / GOLDEN_ID


@pytest.fixture
def place(tmp_path):
    return tmp_path


def copied(original, place):
    """A fresh copy, to break."""
    shutil.rmtree(place / GOLDEN_ID, ignore_errors=True)
    return Path(shutil.copytree(original, place / GOLDEN_ID))


def files_of(directory):
    return sorted(str(each.relative_to(directory)) for each in directory.rglob("*") if each.is_file())


def signed(directory, manifest):
    """Write a manifest with a checksum that fits, as a hostile program would."""
    manifest = {key: value for key, value in manifest.items() if key != "checksum"}
    text = json.dumps({**manifest, "checksum": manifest_checksum(manifest)})
    (directory / MANIFEST).write_text(text, encoding="utf-8")


def manifest_of(directory):
    return json.loads((directory / MANIFEST).read_text(encoding="utf-8"))


def open_and_verify(directory):
    Release(directory).verify()


class Opened:
    """The files that were opened for reading while it was watching, whoever asked."""

    def __init__(self, monkeypatch):
        self.paths = set()
        for module in (builtins, io):
            monkeypatch.setattr(module, "open", self._watched(open))
        monkeypatch.setattr(os, "open", self._watched(os.open))
        monkeypatch.setattr(faiss, "read_index", lambda path, *_: pytest.fail(f"FAISS was handed {path}"))

    def _watched(self, function):
        def watched(path, *arguments, **options):
            if not isinstance(path, int):
                self.paths.add(os.path.realpath(os.fspath(path)))
            return function(path, *arguments, **options)

        return watched

    def outside(self, directory):
        inside = os.path.realpath(directory) + os.sep
        return {path for path in self.paths if not path.startswith(inside)}


# Damage: what the checksums are for.


@SLOW_TO_SET_UP
@given(data=st.data())
def test_a_file_that_changed_is_refused_before_anything_is_made_of_it(original, place, data):
    directory = copied(original, place)
    name = data.draw(st.sampled_from(files_of(directory)))
    path = directory / name
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["flip", "truncate", "extend", "overwrite"]))
    if kind == "flip":
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "truncate":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    elif kind == "extend":
        content += data.draw(st.binary(min_size=1, max_size=300))
    else:
        start = data.draw(st.integers(0, len(content) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=64))
        content[start : start + len(patch)] = patch[: len(content) - start]
    assume(bytes(content) != path.read_bytes())
    path.write_bytes(content)
    if name == MANIFEST:
        with contextlib.suppress(ValueError, RecursionError):  # spaces and the like mean nothing
            assume(json.loads(content) != manifest_of(original))
    with pytest.raises(ReleaseError):
        open_and_verify(directory)
    # Answering reads less than verifying: it may go well, and if not, it says so.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with contextlib.suppress(ReleaseError):
            Snapshot.open(directory)


@pytest.mark.parametrize(
    "lines", [b"[" * 3_000_000, b'{"a":' * 100_000, b"9" * 10_000, b"NaN", b'{"format_version": 1e999}']
)
def test_json_that_is_deep_or_strange_is_refused(original, place, lines):
    directory = copied(original, place)
    (directory / MANIFEST).write_bytes(lines)
    with pytest.raises(ReleaseError):
        Release(directory)


@pytest.mark.parametrize("depth", [100, 500, 900, 990, 1000, 5000, 50_000])
def test_a_manifest_that_is_deep_is_read_or_refused(original, place, depth):
    directory = copied(original, place)
    text = (directory / MANIFEST).read_text(encoding="utf-8").rstrip().removesuffix("}")
    (directory / MANIFEST).write_text(text + ', "deep": ' + "[" * depth + "]" * depth + "}", encoding="utf-8")
    with pytest.raises(ReleaseCorrupt):
        Release(directory)


def test_a_manifest_of_a_gigabyte_is_not_read(original, place, monkeypatch):
    directory = copied(original, place)
    with (directory / MANIFEST).open("r+b") as file:
        file.truncate(1 << 30)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("was read"))
    with pytest.raises(ReleaseCorrupt, match="1,073,741,824 bytes"):
        Release(directory)


# Names: nothing outside the release is opened.

OUTSIDE = [
    "../secret", "../../etc/passwd", "/etc/passwd", "users/../../secret", "./../secret", "a/../../secret", "..", ".",
    "", "/", "users//x", "users/", "\0", "secret\n", "..\\secret", "C:\\secret", "~/secret", "users/\u2025/x", "é",
    "-x", ".hidden", "users/.hidden",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_elsewhere_is_refused_and_nothing_is_opened(original, place, monkeypatch, name):
    directory = copied(original, place)
    secret = b"secret"
    (place / "secret").write_bytes(secret)
    manifest = manifest_of(directory)
    manifest["files"][name] = {"size_bytes": len(secret), "sha256": hashlib.sha256(secret).hexdigest()}
    signed(directory, manifest)
    opened = Opened(monkeypatch)
    for reads in (open_and_verify, Snapshot.open):
        with pytest.raises(ReleaseCorrupt, match="names the file"):
            reads(directory)
    assert opened.paths, "the manifest was"
    assert opened.outside(directory) == set()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(max_size=20) | st.from_regex(r"\A(\.\.?|[a-z/.~]|/){1,12}\Z"))
@example(name="users/../../secret")
def test_whatever_a_manifest_names_stays_inside(original, place, name):
    directory = place / GOLDEN_ID
    if not directory.exists():
        copied(original, place)
    manifest = manifest_of(original)
    manifest["files"][name] = {"size_bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    signed(directory, manifest)
    with pytest.raises(ReleaseError):  # even a harmless name is of no file that is there
        Release(directory)


@pytest.mark.parametrize("name", ["index.faiss", "users/ids.data.npy", "users", "parts/0", MANIFEST])
def test_a_link_is_no_file_of_a_release(original, place, monkeypatch, name):
    directory = copied(original, place)
    elsewhere = place / "elsewhere"
    (directory / name).rename(elsewhere)
    (directory / name).symlink_to(elsewhere)
    opened = Opened(monkeypatch)
    for reads in (open_and_verify, Snapshot.open):
        with pytest.raises(ReleaseCorrupt, match=r"is missing|has no manifest"):
            reads(directory)
    assert opened.outside(directory) == set()


def test_a_pipe_is_no_file_of_a_release(original, place):
    directory = copied(original, place)
    (directory / MANIFEST).unlink()
    os.mkfifo(directory / MANIFEST)
    with pytest.raises(ReleaseCorrupt, match="has no manifest"):
        Release(directory)


# A manifest with a checksum that fits, and nonsense in it.

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([2**31, 2**63, -1, 10**30, -(10**30), 1e308, "0", "Flat", "HNSW32", "Quantized1", "../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def paths_of(value, at=()):
    """Where every value of nested ones stands."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from paths_of(each, (*at, key))


@settings(SLOW_TO_SET_UP, max_examples=400)
@given(data=st.data())
def test_a_manifest_that_says_something_else_is_served_or_refused_with_a_reason(original, place, data):
    directory = place / GOLDEN_ID
    if not directory.exists():
        copied(original, place)
    shutil.copyfile(original / MANIFEST, directory / MANIFEST)
    manifest = copy.deepcopy(manifest_of(original))
    del manifest["checksum"]
    *way, last = data.draw(st.sampled_from([path for path in paths_of(manifest) if path]))
    holder = manifest
    for key in way:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[last] = data.draw(VALUES)
    else:
        del holder[last]
    signed(directory, manifest)
    repository = Repository(place)
    for reads in (Snapshot.open, open_and_verify, lambda path: repository.summaries()):
        with contextlib.suppress(NearcartError):
            reads(directory)


# Pickle.


UNPICKLES = re.compile(r"pickle|\b(marshal|shelve|joblib|dill)\b|\bnp\.load\(")


def unpickling(line):
    """Whether a line of source may unpickle: NumPy's readers may not where they are told so."""
    return bool(UNPICKLES.search(re.sub(r"(np\.load\([^)]*, )?allow_pickle=False", "", line)))


def test_no_source_unpickles():
    sources = [source for folder in ("engine", "trainer", "proto") for source in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 100
    found = [
        f"{source.relative_to(ROOT)}:{number}: {line}"
        for source in sources
        for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1)
        if unpickling(line)
    ]
    assert found == []
    assert unpickling("array = np.load(path)")
    assert unpickling("np.load(path, allow_pickle=True)")
    assert unpickling("import pickle")


def test_an_array_that_is_an_archive_is_not_opened(original, place):
    """np.load takes whatever its first bytes say."""
    directory = copied(original, place)
    name = "items/popularity.npy"
    np.savez(directory / "archive.npz", np.zeros(16, dtype=np.int32))
    content = (directory / "archive.npz").read_bytes()
    (directory / "archive.npz").unlink()
    (directory / name).write_bytes(content)
    manifest = manifest_of(directory)
    manifest["files"][name] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    signed(directory, manifest)
    with pytest.raises(ReleaseCorrupt, match="is not a readable array"):
        Snapshot.open(directory)
