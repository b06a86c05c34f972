"""Every benchmark runs with --quick and leaves raw rows with their environment; nothing is measured here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import rivals, training
from benchmarks.training_tables import epochs_to

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py") if '"__main__"' in path.read_text())
SLOW = ("carts", "faults", "latency", "server_costs")


@pytest.mark.parametrize("name", [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in NAMES])
def test_a_quick_run_writes_its_rows(name, tmp_path):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", str(tmp_path / "rows.jsonl")]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows
    assert all(row["environment"]["nearcart"] for row in rows)


def test_make_bench_runs_each_of_them():
    (line,) = (line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("\tfor each in"))
    assert sorted(line.split(";")[0].split()[3:]) == NAMES


def test_training_without_rivals_says_which_are_absent_and_measures_nearcart(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(rivals.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["training", "--quick", "--json", str(tmp_path / "rows.jsonl")])
    training.main()
    assert "absent, so not compared: implicit, irspack" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row["trainer"] for row in rows} == {"nearcart-default"}
    assert [row["epoch"] for row in rows] == [1, 2, 3]


def test_a_time_to_an_objective_is_that_of_the_first_epoch_at_or_below_it():
    assert epochs_to([5.0, 3.0, 2.0], 3.0) == 2
    assert epochs_to([5.0, 3.0 * (1 + 1e-8)], 3.0) == 2
    assert epochs_to([5.0, 3.0], 2.9) is None
