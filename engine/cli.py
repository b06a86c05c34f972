"""The command `nearcart`: finds a command, fills its configuration, runs it, and turns errors into exit codes.

Commands are registered as entry points of the group "nearcart.commands", so the engine lists the trainer's commands
without importing the trainer. Exit codes: 0 done, 1 could not, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Protocol

from engine.configuration import as_mapping, parse
from engine.errors import NearcartError, UsageError
from engine.logs import set_up_logging

GROUP = "nearcart.commands"
_ORDER = (
    "demo", "train", "evaluate", "tune", "index", "export", "recommend-all", "warmup", "releases", "serve", "query",
)  # fmt: skip
_ASKING = ("query", "releases")
"""Commands that change nothing, whose configuration nobody looks for in a log."""
_TRAIN_PACKAGES = {"duckdb", "pyarrow", "rich", "scipy"}

_log = logging.getLogger("nearcart")


class Command(Protocol):
    """A frozen dataclass whose fields are its options (engine.configuration) and whose docstring is its help."""

    def run(self) -> None:
        """Do it. Raises NearcartError."""


def commands() -> Mapping[str, importlib.metadata.EntryPoint]:
    """Every registered command, in the order of its use."""
    found = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    return {name: found[name] for name in sorted(found, key=lambda name: (*_place(name), name))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    known = commands()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(known), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"nearcart {importlib.metadata.version('nearcart')}")
        return 0
    name, program = arguments[0], f"nearcart {arguments[0]}"
    if name not in known:
        return _fail("nearcart", f"unknown command {name!r}; expected one of: {', '.join(known)}", 2)
    set_up_logging()
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        command: Command = parse(known[name].load(), arguments[1:], os.environ, program)
        level = logging.DEBUG if name in _ASKING else logging.INFO
        _log.log(level, "%s %s", program, " ".join(f"{key}={value!r}" for key, value in as_mapping(command).items()))
        command.run()
    except UsageError as error:
        return _fail(program, str(error), 2)
    except NearcartError as error:
        return _fail(program, str(error), 1)
    except ModuleNotFoundError as error:
        if error.name not in _TRAIN_PACKAGES:
            raise
        hint = "install Nearcart with its extra `train`, as in pip install 'nearcart[train]'"
        return _fail(program, f"needs the package {error.name!r}: {hint}", 1)
    except MemoryError as error:
        return _fail(program, f"not enough memory ({error}): fewer --factors need less", 1)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        hint = "set NUMBA_CACHE_DIR to a directory that this user can write to"
        return _fail(
            program, f"nowhere to keep compiled kernels: the program's folder and the home are read-only; {hint}", 1
        )
    except KeyboardInterrupt:
        return _fail(program, "interrupted", 130)
    except BrokenPipeError:
        # The reader of our output went away (`nearcart ... | head`); stop quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def _help(known: Mapping[str, importlib.metadata.EntryPoint]) -> str:
    lines = ["usage: nearcart COMMAND ...", "", "From a shop's events to recommendations over gRPC.", "", "commands:"]
    width = max(map(len, known))
    for name, entry in known.items():
        summary = (entry.load().__doc__ or "").strip().splitlines()[0]
        lines.append(f"  {name:<{width}} {summary}")
    lines += ["", "`nearcart COMMAND --help` explains one; `nearcart --version` prints the version."]
    return "\n".join(lines)


def _terminate(number: int, frame: FrameType | None) -> None:
    """An exception runs the `finally` blocks, which remove temporary files and end children; a signal does not."""
    sys.exit(128 + number)


def _place(name: str) -> tuple[int]:
    return (_ORDER.index(name),) if name in _ORDER else (len(_ORDER),)


def _fail(program: str, message: str, code: int) -> int:
    print(f"{program}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
