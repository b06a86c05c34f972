"""What the user guide shows of the Python API runs, and every public name is what its home calls so."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trainer

GUIDE = Path(__file__).parents[1] / "docs" / "user-guide.md"


def test_the_example_of_the_user_guide_runs(tmp_path, monkeypatch, capsys):
    section = GUIDE.read_text().split("\n## From Python\n")[1].split("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    rows = (
        f"u{user},i{item},2026-01-{1 + (user * item) % 28:02}" for user in range(60) for item in range(user % 9 + 2)
    )
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    exec(compile(example, str(GUIDE), "exec"), {})
    assert re.fullmatch(r"(epoch \d: loss [\d,]+\n)+(i\d+ +-?0\.\d+\n){3}", capsys.readouterr().out)


@pytest.mark.parametrize("name", trainer.__all__)
def test_a_public_name_is_what_its_home_calls_so(name):
    assert getattr(trainer, name) is getattr(importlib.import_module(trainer._HOMES[name]), name)


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, trainer; print([name for name in ('duckdb', 'numba', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        trainer.fit  # noqa: B018
