"""The documentation keeps up with the code: flags, defaults, errors, RPCs, links, decisions and make targets."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from nearcart.v1 import admin_pb2, recommendation_pb2

from engine import errors as engine_errors
from engine.cli import commands
from engine.configuration import argument_parser
from engine.errors import NearcartError
from engine.ids import StringTable
from trainer import errors as trainer_errors

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
GOLDEN_RELEASES = sorted(each.parent for each in (ROOT / "tests" / "data").glob("golden_v*/*/manifest.json"))

RPCS = [
    f"{service.name}.{method.name}"
    for file in (recommendation_pb2, admin_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def flags(command: str) -> dict[str, argparse.Action]:
    """Every flag of a command but --help, by the name that a table of the user guide shows."""
    parser = argument_parser(commands()[command].load(), f"nearcart {command}")
    return {action.option_strings[0]: action for action in parser._actions if action.option_strings[0:1] != ["-h"]
            and action.option_strings}  # fmt: skip


def shown_defaults(command: str) -> dict[str, str]:
    """Each flag of a command as the user guide's tables have it."""
    defaults = {}
    fields = commands()[command].load().__dataclass_fields__
    for flag in flags(command):
        if flag == "--config":
            defaults[flag] = "none"
            continue
        default = fields[flag.removeprefix("--").replace("-", "_")].default
        if default is inspect.Parameter.empty or type(default).__name__ == "_MISSING_TYPE":
            defaults[flag] = "required"
        elif isinstance(default, bool):
            defaults[flag] = "on" if default else "off"
        else:
            defaults[flag] = "none" if default in (None, "", ()) else str(default)
    return defaults


def guide_rows(command: str) -> dict[str, str]:
    """Flag -> default, of the tables under the headings of the user guide that name the command in backticks."""
    rows: dict[str, str] = {}
    for section in re.split(r"^## ", (DOCS / "user-guide.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        if f"`{command}`" in heading:
            rows |= dict(re.findall(r"^\| `(--[a-z-]+)` \| `([^`]*)` \|", body, flags=re.MULTILINE))
    return rows


def errors_of(module) -> dict[str, type[NearcartError]]:
    found = inspect.getmembers(module, inspect.isclass)
    return {
        name: kind for name, kind in found if issubclass(kind, NearcartError) and kind.__module__ == module.__name__
    }


def anchors(page: Path) -> set[str]:
    """The anchors that the headings of a page get on a code host."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


@pytest.mark.parametrize("command", sorted(commands()))
def test_the_user_guide_has_every_flag_and_its_default(command):
    assert guide_rows(command) == shown_defaults(command)


@pytest.mark.parametrize("command", sorted(commands()))
def test_the_user_guide_names_every_choice_of_a_flag(command):
    guide = (DOCS / "user-guide.md").read_text(encoding="utf-8")
    for action in argument_parser(commands()[command].load(), command)._actions:
        for choice in action.choices or ():
            assert re.search(rf"`{choice}`|nearcart {command} {choice}\b", guide), f"{action.dest}: {choice}"


@pytest.mark.parametrize("module", [engine_errors, trainer_errors], ids=["engine", "trainer"])
def test_every_error_is_documented_and_drawn_in_its_modules_tree(module):
    documented = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "errors.md").read_text(encoding="utf-8"), re.MULTILINE))
    drawn = set(re.findall(r"^[ │├└─]+(\w+)(?:  |$)", module.__doc__, re.MULTILINE))
    names = set(errors_of(module))
    assert len(names) > 5
    assert names - documented == set()
    assert names - drawn == set()


def test_errors_md_knows_no_error_that_does_not_exist():
    documented = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "errors.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert documented - {*errors_of(engine_errors), *errors_of(trainer_errors)} == set()


@pytest.mark.parametrize("rpc", RPCS)
def test_every_rpc_is_in_the_page_about_the_wire(rpc):
    assert f"| `{rpc.split('.')[1]}` |" in (DOCS / "wire.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} does not exist"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: no such heading; there are {sorted(anchors(target))}"


def test_every_page_and_every_decision_is_in_the_index():
    indexed = {(DOCS / link).resolve() for link in links(DOCS / "README.md")}
    assert {page for page in DOCS.rglob("*.md") if page.name != "README.md"} - indexed == set()


def test_every_make_target_that_a_page_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test"} <= targets
    for page in PAGES:
        for call in re.findall(
            r"(?:^|`)make ([a-z -]+?)(?= *(?:#|`|$))", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            assert set(call.split()) <= targets, f"{page.name}: make {call}"


def test_every_command_that_a_page_shows_exists_and_has_its_flags():
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for name, rest in re.findall(r"^(?:    |\$ )?nearcart ([a-z-]+)\b(.*)$", text, re.MULTILINE):
            assert name in commands(), f"{page.name}: nearcart {name}"
            given = set(re.findall(r"(?<=\s)--[a-z-]+", rest.split("#")[0]))
            known = {option for action in flags(name).values() for option in action.option_strings}
            assert given <= known, f"{page.name}: nearcart {name}"


def test_every_test_file_that_the_code_or_a_page_names_exists():
    sources = [
        *PAGES,
        *(ROOT / "engine").glob("*.py"),
        *(ROOT / "trainer").glob("*.py"),
        *(ROOT / "tests").glob("*.py"),
    ]
    for source in sources:
        for name in re.findall(r"tests/\w+\.py", source.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{source.relative_to(ROOT)} names {name}"


@pytest.mark.parametrize("release", GOLDEN_RELEASES, ids=lambda release: release.parent.name)
def test_the_documented_look_up_finds_every_id_of_a_golden_release(release):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "release-format.md").read_text(encoding="utf-8"), re.DOTALL)
    namespace: dict = {}
    exec(code, namespace)
    for side in ("users", "items"):
        data, offsets, slots = namespace["load"](release, side)
        table = StringTable(np.asarray(data), np.asarray(offsets))
        assert len(table) > 0
        for row in range(len(table)):
            assert namespace["row_of"](table[row].encode(), data, offsets, slots) == row
        assert namespace["row_of"](b"no such id", data, offsets, slots) == -1


def test_the_documented_manifest_has_the_fields_of_a_real_one():
    (example,) = re.findall(r"```json\n(.*?)```", (DOCS / "release-format.md").read_text(encoding="utf-8"), re.DOTALL)
    table = (
        (DOCS / "release-format.md").read_text(encoding="utf-8").partition("| field | needed |")[2].partition("\n\n")[0]
    )
    manifest_module = importlib.import_module("engine.manifest")
    shown = set(re.findall(r'^ "(\w+)":', example, re.MULTILINE))
    needed = {
        name for line in table.splitlines() if "| yes |" in line for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert needed == {*manifest_module._REQUIRED, "format_version", "checksum"}
    assert needed <= shown


def test_no_page_names_a_path_of_someones_machine():
    for page in PAGES:
        assert not re.search(r"/(home|Users|work|root)/\w", page.read_text(encoding="utf-8")), page.name
