#!/usr/bin/env python3
"""Ask a server's grpc.health.v1 whether it is SERVING: exit code 0 if so, 1 with a line on standard error if not.

For what can only run a command: HEALTHCHECK of the image, exec probes where the port has TLS (the kubelet's own gRPC
probe speaks plaintext only). Kept honest by tests/test_deploy.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main() -> int:
    """Ask once."""
    parser = argparse.ArgumentParser(description="Exit with 0 if the server is SERVING, with 1 if it is not.")
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("--service", default="", help="name to ask for; the whole server if not given")
    parser.add_argument("--timeout-seconds", type=float, default=3.0, metavar="S")
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="who signed the server's certificate: use TLS")
    parser.add_argument("--tls-name", metavar="HOST", help="name in the server's certificate, if not the address's")
    parser.add_argument("--tls-certificate", type=Path, metavar="FILE", help="with mutual TLS: our certificate")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="with mutual TLS: its key")
    given = parser.parse_args()
    try:
        with _channel(given) as channel:
            request = health_pb2.HealthCheckRequest(service=given.service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=given.timeout_seconds)
    except OSError as error:
        print(f"cannot read {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except grpc.RpcError as error:
        print(f"{given.address}: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if name != "SERVING":
        print(f"{given.address}: found {name}, expected SERVING", file=sys.stderr)
        return 1
    return 0


def _channel(given: argparse.Namespace) -> grpc.Channel:
    options = [("grpc.enable_http_proxy", 0)]
    if given.tls_ca is None:
        return grpc.insecure_channel(given.address, options)
    own = [each and each.read_bytes() for each in (given.tls_key, given.tls_certificate)]
    if given.tls_name:
        options.append(("grpc.ssl_target_name_override", given.tls_name))
    return grpc.secure_channel(given.address, grpc.ssl_channel_credentials(given.tls_ca.read_bytes(), *own), options)


if __name__ == "__main__":
    sys.exit(main())
