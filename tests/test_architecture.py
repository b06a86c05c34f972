"""The one arrow between the packages, held by import-linter (its contracts stand in pyproject.toml)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def lint(folder):
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    return subprocess.run([*command, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


def test_the_import_contracts_are_kept():
    found = lint(ROOT)
    assert found.returncode == 0, found.stdout
    assert "3 kept, 0 broken" in found.stdout


def test_each_contract_breaks_when_it_is_violated(tmp_path):
    for folder in ("engine", "trainer"):
        (tmp_path / folder).mkdir()
        for module in (ROOT / folder).glob("*.py"):
            (tmp_path / folder / module.name).write_text(module.read_text())
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    with (tmp_path / "engine" / "index.py").open("a") as module:
        module.write("\nimport duckdb\nimport trainer.errors\n")
    with (tmp_path / "trainer" / "als.py").open("a") as module:
        module.write("\nimport engine.server\n")
    found = lint(tmp_path)
    assert found.returncode == 1
    assert "0 kept, 3 broken" in found.stdout
