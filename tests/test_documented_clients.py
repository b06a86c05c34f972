"""The Python of the pages that asks a server runs as it stands there, but for the port."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_backend import serving

ROOT = Path(__file__).parent.parent
ADDRESS = "127.0.0.1:50051"
PROGRAMS = [
    (page, number, code)
    for page in ("README.md", "docs/user-guide.md", "docs/wire.md")
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    )
    if ADDRESS in code
]


def test_each_page_has_one() -> None:
    assert {page for page, _, _ in PROGRAMS} == {"README.md", "docs/user-guide.md", "docs/wire.md"}


@pytest.mark.parametrize(("page", "number", "code"), PROGRAMS, ids=[f"{page}-{number}" for page, number, _ in PROGRAMS])
def test_what_a_page_shows_runs(page: str, number: int, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    previous = re.findall(r"^from \S+ import .*$", "".join(each for name, _, each in PROGRAMS if name == page), re.M)
    namespace = {"__name__": "__main__"}
    with serving() as server:
        exec("\n".join([*previous, code.replace(ADDRESS, server.address)]), namespace)
    shown = capsys.readouterr().out
    assert "item 1" in shown or "answer" in namespace


def test_the_readme_prints_answers_in_about_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    ((_, _, code),) = [each for each in PROGRAMS if each[0] == "README.md"]
    assert len(code.splitlines()) <= 11
    with serving() as server:
        exec(code.replace(ADDRESS, server.address), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["1.000", "item", "0"]
    assert lines[1].split() == ["0.750", "item", "1", "ITEM", "1"]
    assert len(lines) >= 7
