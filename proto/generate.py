"""Generates the Python of the wire contract: `python proto/generate.py [OUTPUT]`, by default beside the .proto files.

The result is committed, so that neither users nor the wheel need a compiler; tests/test_proto.py generates it again and
compares. Needs grpcio-tools and mypy-protobuf, which the development group installs.
"""

from __future__ import annotations

import importlib.resources
import os
import sys
import sysconfig
from pathlib import Path

from grpc_tools import protoc

SOURCES = Path(__file__).parent


def generate(output: Path) -> None:
    """Write nearcart/v1/*_pb2.py, *_pb2.pyi, *_pb2_grpc.py and *_pb2_grpc.pyi below `output`."""
    files = sorted(path.relative_to(SOURCES).as_posix() for path in (SOURCES / "nearcart").rglob("*.proto"))
    # protoc looks for mypy-protobuf's plugins on PATH, where an environment that was not activated is missing.
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    code = protoc.main(
        [
            "protoc",
            f"--proto_path={SOURCES}",
            f"--proto_path={importlib.resources.files('grpc_tools') / '_proto'}",
            f"--python_out={output}",
            f"--grpc_python_out={output}",
            f"--mypy_out={output}",
            f"--mypy_grpc_out={output}",
            *files,
        ]
    )
    if code != 0:
        raise SystemExit(f"protoc ended with code {code}; its messages stand above")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCES)
