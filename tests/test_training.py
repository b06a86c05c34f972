"""Long trainings by the command line: interrupted and going on, ended early, and what they say meanwhile."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from engine.cli import main
from engine.release import Release
from engine.repository import Repository

N_USERS, N_ITEMS, FACTORS = 80, 60, 8
PIPE_BYTES = 4096
LONG = 200
"""Epochs whose lines are more than pipe and reader hold: a training that nobody listens to waits to be interrupted."""
LINE = re.compile(
    r"epoch (\d+)/\d+: loss [\d,]+ = observed [\d.e+]+k? \+ unobserved [\d.e+]+k? \+ penalty [\d.e+]+k?"
    r"(, ndcg@20 0\.\d{4}(, best 0\.\d{4})?)?, [\d.e+]+[kM]? rows/s, [\d,]+ s left"
)


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """Events of two tastes."""
    file = tmp_path_factory.mktemp("events") / "events.csv"
    generator = np.random.default_rng(0)
    rows = ["user_id,item_id"]
    for user in range(N_USERS):
        chosen = generator.choice(N_ITEMS // 2, 12, replace=False) + (user % 2) * N_ITEMS // 2
        rows += [f"u{user},i{item}" for item in chosen]
    file.write_text("\n".join(rows) + "\n")
    return file


def arguments(events, releases, *others, epochs=6):
    sizes = ["--factors", str(FACTORS), "--epochs", str(epochs)]
    return ["train", str(events), "--releases", str(releases), *sizes, "--threads", "1", *map(str, others)]


def vectors(releases):
    """The vectors of the live release."""
    release = Release(Repository(releases).current_path())
    sizes = {"user": N_USERS, "item": N_ITEMS}
    return [release.array(f"parts/0/{side}_vectors", np.float32, (n, FACTORS)) for side, n in sizes.items()]


def assert_same(found, expected):
    for one, other in zip(vectors(found), vectors(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def lines(text):
    return [each for each in text.splitlines() if each.startswith("epoch ")]


@pytest.mark.parametrize("early_stopping", [0, LONG])
def test_an_interrupted_training_goes_on_and_publishes_the_same_bits(events, tmp_path, capsys, early_stopping):
    checkpoint = tmp_path / "state.npz"
    options = ["--early-stopping", early_stopping]
    command = arguments(events, tmp_path / "one", "--checkpoint", checkpoint, *options, epochs=LONG)
    with subprocess.Popen(
        [sys.executable, "-m", "engine.cli", *command], stderr=subprocess.PIPE, pipesize=PIPE_BYTES, text=True
    ) as process:
        for line in process.stderr:
            if line.startswith("epoch 3/"):
                process.send_signal(signal.SIGINT)
                break
        _, told = process.communicate()
    assert process.returncode == 130
    assert told.endswith("nearcart train: interrupted\n")
    assert f"interrupted: the same command goes on from {checkpoint}" in told
    assert not (tmp_path / "one").exists() or Repository(tmp_path / "one").current() is None
    last = int(LINE.match(lines(told)[-1])[1]) if lines(told) else 3

    assert main(command) == 0
    said = capsys.readouterr().err
    after = int(re.search(rf"going on after epoch (\d+) of {LONG}", said)[1])
    assert after >= last
    assert lines(said)[0].startswith(f"epoch {after + 1}/{LONG}: ")
    assert list(tmp_path.glob("*state.npz*")) == []
    assert main(arguments(events, tmp_path / "two", "--quiet", *options, epochs=LONG)) == 0
    assert_same(tmp_path / "one", tmp_path / "two")


def test_a_checkpoint_of_another_training_ends_with_1_and_says_what_to_do(events, tmp_path, capsys):
    checkpoint = tmp_path / "state.npz"
    checkpoint.write_bytes(b"damaged")
    assert main(arguments(events, tmp_path / "releases", "--checkpoint", checkpoint)) == 1
    assert f"nearcart train: {checkpoint} is no checkpoint, or a damaged one" in capsys.readouterr().err
    assert checkpoint.exists()


def test_a_checkpoint_stays_where_publishing_fails(events, tmp_path, capsys, monkeypatch):
    checkpoint = tmp_path / "state.npz"

    def fail(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("trainer.training.publish_release", fail)
        assert main(arguments(events, tmp_path / "one", "--checkpoint", checkpoint)) == 130
    assert checkpoint.exists()
    capsys.readouterr()
    assert main(arguments(events, tmp_path / "one", "--checkpoint", checkpoint)) == 0
    assert "going on after epoch 6 of 6" in capsys.readouterr().err
    assert not checkpoint.exists()
    assert main(arguments(events, tmp_path / "two", "--quiet")) == 0
    assert_same(tmp_path / "one", tmp_path / "two")


def test_early_stopping_names_its_metric_and_the_epoch_it_takes(events, tmp_path, capsys):
    assert main(arguments(events, tmp_path / "releases", "--early-stopping", "2", epochs=200)) == 0
    said = capsys.readouterr().err
    assert "holding out an item of 80 users, to measure ndcg@20 after each epoch" in said
    values = [float(re.search(r"ndcg@20 ([\d.]+)", line)[1]) for line in lines(said)]
    best, done = (
        int(each) for each in re.search(r"took the items of epoch (\d+) of (\d+), the best by ndcg", said).groups()
    )
    assert done == len(values) == best + 2 < 200
    assert values[best - 1] == max(values)
    manifest = Release(Repository(tmp_path / "releases").current_path()).manifest
    assert len(manifest["losses"]) == best
    assert manifest["configuration"]["early_stopping"] == 2
    assert manifest["sizes"]["entries"] == N_USERS * 12


def test_without_a_terminal_there_is_a_short_line_an_epoch(events, tmp_path, capsys):
    assert main(arguments(events, tmp_path / "releases", "--early-stopping", "9")) == 0
    told = lines(capsys.readouterr().err)
    assert [int(LINE.fullmatch(line)[1]) for line in told] == [1, 2, 3, 4, 5, 6]
    assert max(map(len, told)) < 130


def test_a_terminal_shows_the_lines_and_a_bar(events, tmp_path):
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "engine.cli", *arguments(events, tmp_path / "releases")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150"}
    with subprocess.Popen(command, stderr=follower, stdout=subprocess.DEVNULL, env=environment) as process:
        os.close(follower)
        shown = b""
        while more := read_terminal(leader):
            shown += more
    os.close(leader)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown.decode()).replace("\r", "\n")
    assert [int(LINE.fullmatch(line)[1]) for line in lines(text) if line.startswith("epoch ")] == [1, 2, 3, 4, 5, 6]
    assert "━" in text
    assert re.search(r"\d+% (epoch \d/6, )?\d s, \d s left", text)


def read_terminal(leader):
    """What is to be read; nothing when the other side is closed, which Linux calls an error."""
    try:
        return os.read(leader, 1 << 16)
    except OSError:
        return b""


def test_quiet_says_nothing_but_the_release_and_the_log(events, tmp_path):
    command = arguments(events, tmp_path / "releases", "--quiet", "--early-stopping", "2")
    command += ["--checkpoint", str(tmp_path / "state.npz")]
    ran = subprocess.run([sys.executable, "-m", "engine.cli", *command], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == Repository(tmp_path / "releases").current()
    assert not re.search(r"^(epoch|\[)|ndcg|left", ran.stderr, re.MULTILINE)
