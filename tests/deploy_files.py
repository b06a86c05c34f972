"""What tests of deploy/ read: its files as plain values, containers of every kind in one shape, metrics in PromQL."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
YAMLS = sorted(DEPLOY.rglob("*.yaml"))
KUBERNETES = sorted((DEPLOY / "kubernetes" / "base").glob("*.yaml"))
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
USER = "10001"


@dataclass(frozen=True)
class Container:
    """A container of our image, from whichever file: the command line after `nearcart`, and how it is confined."""

    place: str
    image: str
    arguments: list[str]
    user: str
    read_only: bool
    drops_all: bool
    gains_no_privileges: bool
    writable: set[str]
    grace_seconds: float

    def value(self, flag: str) -> str:
        """What is given for a flag; KeyError where it is not."""
        return dict(each.split("=", 1) for each in self.arguments if "=" in each)[flag]


def documents(path: Path) -> list[Any]:
    """Every document of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def resources() -> list[dict[str, Any]]:
    """What `kubectl apply -k deploy/kubernetes/base` would create, and what stands beside it."""
    return [each for path in KUBERNETES for each in documents(path) if each["kind"] != "Kustomization"]


def resource(kind: str, name: str = "nearcart") -> dict[str, Any]:
    (found,) = (each for each in resources() if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def patched_for_tls() -> dict[str, Any]:
    """The Deployment as deploy/kubernetes/tls makes it: a JSON patch (RFC 6902) of test, add and replace."""
    deployment: Any = json.loads(json.dumps(resource("Deployment")))
    (patch,) = documents(DEPLOY / "kubernetes" / "tls" / "deployment-patch.yaml")
    for change in patch:
        *path, last = change["path"].strip("/").split("/")
        place = deployment
        for step in path:
            place = place[int(step) if isinstance(place, list) else step]
        key = int(last) if isinstance(place, list) and last != "-" else last
        if change["op"] == "test":
            assert place[key] == change["value"], change
        elif key == "-":
            place.append(change["value"])
        else:
            assert change["op"] in ("add", "replace"), change
            if change["op"] == "replace":
                place[key]  # KeyError, IndexError: nothing is there
            place[key] = change["value"]
    return deployment


def composed() -> dict[str, dict[str, Any]]:
    """Services of the compose file, by name."""
    (content,) = documents(DEPLOY / "compose.yaml")
    return content["services"]


def ran(*command, **environment):
    """Exit code and output of a command, from the root of the repository."""
    done = subprocess.run(
        [str(each) for each in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | environment,
    )
    return done.returncode, done.stdout + done.stderr


def _of_compose(name: str, service: dict[str, Any]) -> Container:
    mounts = [each for each in service["volumes"] if isinstance(each, dict)]
    return Container(
        f"compose.yaml: {name}",
        service["image"],
        service["command"],
        service["user"].split(":")[0],
        service["read_only"],
        service["cap_drop"] == ["ALL"],
        service["security_opt"] == ["no-new-privileges:true"],
        {each.split(":")[0] for each in service["tmpfs"]} | {m["target"] for m in mounts if not m.get("read_only")},
        float(service["stop_grace_period"].removesuffix("s")),
    )


def _of_pod(place: str, deployment: dict[str, Any]) -> list[Container]:
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    return [
        Container(
            f"{place}: {each['name']}",
            each["image"],
            each["args"],
            str(pod["securityContext"]["runAsUser"]),
            each["securityContext"]["readOnlyRootFilesystem"],
            each["securityContext"]["capabilities"]["drop"] == ["ALL"],
            each["securityContext"]["allowPrivilegeEscalation"] is False,
            {mount["mountPath"] for mount in each["volumeMounts"] if not mount.get("readOnly")},
            pod["terminationGracePeriodSeconds"],
        )
        for each in [*pod["initContainers"], *pod["containers"]]
    ]


def containers() -> list[Container]:
    """Every container of our image that a file of deploy/ starts."""
    return [
        _of_compose("nearcart", composed()["nearcart"]),
        *_of_pod("kubernetes/base", resource("Deployment")),
        *_of_pod("kubernetes/tls", patched_for_tls()),
    ]


def dashboard() -> dict[str, Any]:
    return json.loads((DEPLOY / "grafana" / "dashboard.json").read_text(encoding="utf-8"))


def rules() -> list[dict[str, Any]]:
    """Every alert."""
    (content,) = documents(DEPLOY / "prometheus" / "alerts.yaml")
    return [rule for group in content["groups"] for rule in group["rules"]]


def shown_queries() -> list[str]:
    """Every PromQL expression of the dashboard, with Grafana's variables put in."""
    board = dashboard()
    written = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    written += [each["target"]["expr"] for each in board["annotations"]["list"]]
    return [re.sub(r"\$(job|instance)\b", "x", each).replace("$__rate_interval", "1m") for each in written]


def metrics(expression: str) -> set[str]:
    """Names of the metrics that PromQL asks for, as the page names them. Raises ValueError for what is no PromQL."""
    names = {
        node.name for node in _nodes(promql_parser.parse(expression)) if isinstance(node, promql_parser.VectorSelector)
    }
    return {re.sub(r"_seconds_(bucket|sum|count)$|_queries_bucket$", _family, name) for name in names if name}


def _family(found: re.Match[str]) -> str:
    return found[0].rsplit("_", 1)[0]


def _nodes(node: Any) -> list[Any]:
    """A node of PromQL and everything below it."""
    below = [getattr(node, name, None) for name in ("expr", "lhs", "rhs", "vector_selector", "param")]
    below += list(getattr(node, "args", None) or ())
    return [node, *(each for child in below if child is not None for each in _nodes(child))]
