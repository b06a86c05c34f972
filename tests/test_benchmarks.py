"""Every benchmark runs with --quick and leaves raw rows with their environment; nothing is measured here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py") if path.stem != "raw_rows")


@pytest.mark.parametrize("name", NAMES)
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
