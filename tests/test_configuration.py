"""Flags, environment and file fill one dataclass, in that order of precedence; what is wrong is said plainly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.configuration import argument_parser, as_mapping, option, parse
from engine.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Bake:
    """Bake a cake."""

    what: tuple[str, ...] = option("what to bake", positional=True, metavar="CAKE")
    oven: Path = option("where")
    minutes: int = option("how long", 40, minimum=1)
    heat: float = option("how hot", 180.0, minimum=0)
    fan: bool = option("with the fan on", True)
    shelf: str = option("which shelf", "middle", choices=("top", "middle"))
    note: str | None = option("what to write on it", None)
    guests: tuple[str, ...] = option("who comes", ())


def bake(*arguments, **environment):
    return parse(Bake, arguments, environment, "kitchen bake")


def test_defaults_fill_what_is_not_given():
    assert bake("plum", "--oven", "a") == Bake(what=("plum",), oven=Path("a"))


def test_flags_beat_the_environment_which_beats_the_file_which_beats_the_default(tmp_path):
    file = tmp_path / "bake.toml"
    file.write_text("minutes = 10\nheat = 200\nfan = false\nnote = 'file'\nguests = ['Ada', 'Bob']\noven = 'o'\n")
    made = bake("plum", "--config", str(file), "--minutes", "30", NEARCART_MINUTES="20", NEARCART_HEAT="210.5")
    assert made.minutes == 30
    assert made.heat == 210.5
    assert not made.fan
    assert made.note == "file"
    assert made.guests == ("Ada", "Bob")


def test_a_switch_can_be_turned_off_by_flag_and_by_environment():
    assert not bake("plum", "--oven", "a", "--no-fan").fan
    assert not bake("plum", "--oven", "a", NEARCART_FAN="false").fan
    assert bake("plum", "--oven", "a", "--fan", NEARCART_FAN="0").fan


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--oven", "a", "--minutes", "ten"], {}, "--minutes: found 'ten', expected a whole number"),
        (["--oven", "a", "--minutes", "0"], {}, "--minutes: found '0', expected a number of at least 1"),
        (["--oven", "a", "--heat", "nan"], {}, "--heat: found 'nan', expected a finite number"),
        (["--oven", "a", "--heat", "inf"], {}, "expected a finite number"),
        (["--oven", "a"], {"NEARCART_FAN": "maybe"}, "NEARCART_FAN: found 'maybe', expected true or false"),
        (["--oven", "a"], {"NEARCART_SHELF": "bottom"}, "NEARCART_SHELF: found 'bottom', expected one of top, middle"),
        ([], {}, "required: --oven"),
    ],
)
def test_a_wrong_value_is_named_with_where_it_came_from(arguments, environment, message):
    with pytest.raises(UsageError, match=message):
        bake("plum", *arguments, **environment)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("minutes = 1.5", "found 1.5, expected a whole number"),
        ("minutes = true", "found True, expected a whole number"),
        ("minuets = 3", "unknown option 'minuets'; expected among: what, oven, minutes"),
        ("minutes = ", "not TOML"),
    ],
)
def test_a_wrong_file_is_named_with_the_option(tmp_path, text, message):
    file = tmp_path / "bake.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        bake("plum", "--oven", "a", "--config", str(file))


def test_a_missing_file_is_an_error():
    with pytest.raises(UsageError, match="No such file"):
        bake("plum", "--oven", "a", "--config", "nowhere.toml")


def test_an_unknown_flag_and_an_abbreviated_one_exit_with_2(capsys):
    for flag in ("--sugar", "--min"):
        with pytest.raises(SystemExit) as stopped:
            bake("plum", "--oven", "a", flag, "3")
        assert stopped.value.code == 2
    assert "--sugar" in capsys.readouterr().err


def test_help_shows_every_option_with_its_default():
    text = argument_parser(Bake, "kitchen bake").format_help()
    for expected in (
        "--oven",
        "--minutes",
        "(default: 40)",
        "--no-fan",
        "{top,middle}",
        "CAKE",
        "--config",
        "NEARCART_",
    ):
        assert expected in text


def test_the_effective_configuration_is_plain_values():
    assert as_mapping(bake("plum", "--oven", "a/b")) == {
        "what": ["plum"],
        "oven": "a/b",
        "minutes": 40,
        "heat": 180.0,
        "fan": True,
        "shelf": "middle",
        "note": None,
        "guests": [],
    }
