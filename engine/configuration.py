"""Configuration: one frozen dataclass per command, filled from flags, environment and a TOML file.

A field declares its help, type and default once, with `option`. A flag beats the environment variable (`--max-threads`,
`NEARCART_MAX_THREADS`), which beats the file given by `--config` (`max_threads = 4`), which beats the default. The
environment comes in as an argument; engine.cli is the one place that reads os.environ.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import UsageError

ENVIRONMENT_PREFIX = "NEARCART_"
_CONFIG_FLAG = "--config"

T = TypeVar("T")


def option(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    positional: bool = False,
    choices: Sequence[str] | None = None,
    metavar: str | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A field of a command: a flag, or a positional argument; without a default it is required.

    `minimum` and `maximum` bound the numbers accepted. NaN and infinities never are.
    """
    metadata = {"help": help, "positional": positional, "choices": choices, "metavar": metavar}
    return dataclasses.field(default=default, metadata=metadata | {"minimum": minimum, "maximum": maximum})


def parse(command: type[T], arguments: Sequence[str], environment: Mapping[str, str], program: str) -> T:
    """Fill a command's dataclass. Raises UsageError; argparse itself exits with 2 on unknown flags and 0 on --help."""
    parser = argument_parser(command, program)
    given = vars(parser.parse_intermixed_args(arguments))
    config = given.pop("config", None)
    fields = {field.name: field for field in _fields(command)}
    values: dict[str, Any] = {} if config is None else _from_file(Path(config), fields, command)
    for name, field in fields.items():
        text = environment.get(ENVIRONMENT_PREFIX + name.upper())
        if text is not None and not field.metadata["positional"]:
            values[name] = _convert(text, field, command, f"environment variable {ENVIRONMENT_PREFIX}{name.upper()}")
    for name, value in given.items():
        if value == []:
            continue
        values[name] = _convert(value, fields[name], command, _flag(fields[name]))
    missing = [_flag(f) for n, f in fields.items() if n not in values and f.default is dataclasses.MISSING]
    if missing:
        raise UsageError(f"required: {', '.join(missing)}. `{program} --help` explains each")
    return command(**values)


def argument_parser(command: type[Any], program: str) -> argparse.ArgumentParser:
    """The parser whose --help shows every field with its default."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=command.__doc__,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        epilog=f"Every flag can also be set as an environment variable ({ENVIRONMENT_PREFIX}NAME) or in the file "
        f"given by {_CONFIG_FLAG}; flags win over the environment, the environment over the file.",
    )
    parser.add_argument(_CONFIG_FLAG, metavar="FILE", help="TOML file with any of these options, by name")
    for field in _fields(command):
        kind, many = _kind(field, command)
        default = field.default
        shown = field.metadata["help"]
        if default is not dataclasses.MISSING and default is not None and default != () and default != "":
            shown += f" (default: {default})"
        options: dict[str, Any] = {"help": shown.replace("%", "%%")}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            choices: Sequence[str] | None = field.metadata["choices"]
            metavar = field.metadata["metavar"]
            if field.metadata["positional"] and choices:
                # argparse would hold the choices against a positional that is absent; `_scalar` checks them.
                metavar, choices = "{" + ",".join(choices) + "}", None
            options |= {"choices": choices, "metavar": metavar}
            if field.metadata["positional"]:
                # Never required by argparse: the file may give them. What is missing after all is said by `parse`.
                options["nargs"] = "*" if many else "?"
            elif many:
                options["nargs"] = "+" if default is dataclasses.MISSING else "*"
        if field.metadata["positional"]:
            parser.add_argument(field.name, **options)
        else:
            parser.add_argument(_flag(field), dest=field.name, **options)
    return parser


def require_valid(options: object) -> None:
    """Raises UsageError for a value outside its bounds: options made by a program were not parsed."""
    assert dataclasses.is_dataclass(options)
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is not None:
            _require_within(value, field, field.name, value)


def as_mapping(configuration: Any) -> dict[str, Any]:
    """The effective configuration as plain values, for the log and for the manifest."""
    plain: dict[str, Any] = {}
    for field in _fields(type(configuration)):
        value = getattr(configuration, field.name)
        plain[field.name] = (
            str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        )
    return plain


def _fields(command: type[Any]) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(command) if "help" in field.metadata]


def _flag(field: dataclasses.Field[Any]) -> str:
    return field.name.upper() if field.metadata["positional"] else "--" + field.name.replace("_", "-")


def _kind(field: dataclasses.Field[Any], command: type[Any]) -> tuple[type[Any], bool]:
    """A field's scalar type, and whether it takes several."""
    hint = typing.get_type_hints(command)[field.name]
    if isinstance(hint, types.UnionType):
        (hint,) = (each for each in typing.get_args(hint) if each is not type(None))
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    return hint, False


def _convert(value: Any, field: dataclasses.Field[Any], command: type[Any], where: str) -> Any:
    kind, many = _kind(field, command)
    if many:
        values = [value] if isinstance(value, str) else value
        return tuple(_scalar(each, kind, field, where) for each in values)
    return _scalar(value, kind, field, where)


def _scalar(value: Any, kind: type[Any], field: dataclasses.Field[Any], where: str) -> Any:
    converted: Any
    try:
        if kind is bool:
            words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
            converted = value if isinstance(value, bool) else words[str(value).strip().lower()]
        elif isinstance(value, bool) or (kind is int and isinstance(value, float)):
            raise ValueError(value)
        else:
            converted = kind(value)
    except (ValueError, KeyError, TypeError) as error:
        expected = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, kind.__name__)
        raise UsageError(f"{where}: found {value!r}, expected {expected}") from error
    _require_within(converted, field, where, value)
    return converted


def _require_within(converted: Any, field: dataclasses.Field[Any], where: str, value: Any) -> None:
    choices, minimum, maximum = (field.metadata[name] for name in ("choices", "minimum", "maximum"))
    if choices is not None and converted not in choices:
        raise UsageError(f"{where}: found {value!r}, expected one of {', '.join(choices)}")
    if isinstance(converted, float) and not math.isfinite(converted):
        raise UsageError(f"{where}: found {value!r}, expected a finite number")
    if minimum is not None and converted < minimum:
        raise UsageError(f"{where}: found {value!r}, expected a number of at least {minimum:g}")
    if maximum is not None and converted > maximum:
        raise UsageError(f"{where}: found {value!r}, expected a number of at most {maximum:g}")


def _from_file(path: Path, fields: Mapping[str, dataclasses.Field[Any]], command: type[Any]) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{_CONFIG_FLAG} {path}: {error.strerror}: expected a readable TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{_CONFIG_FLAG} {path}: not TOML: {error}") from error
    values = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in fields:
            raise UsageError(f"{_CONFIG_FLAG} {path}: unknown option {key!r}; expected among: {', '.join(fields)}")
        values[name] = _convert(value, fields[name], command, f"{path}: {key}")
    return values
