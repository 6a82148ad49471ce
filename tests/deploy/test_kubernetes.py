"""The files for Kubernetes and KServe, as far as they can be checked without a cluster.

kubernetes-validate ships the published schemas of Kubernetes. Those of KServe and of the Prometheus operator are in
their repositories: ZOO_CRD_DIR names a folder with their custom resource definitions.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from serve import server
from serve.api import create_app
from serve.engine.metrics import Metrics
from serve.settings import OPTIONS, Settings, variable

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
VERSION = "1.31"
CUSTOM = {"ServiceMonitor", "InferenceService", "Kustomization"}


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


FILES = [path for path in sorted(FOLDER.glob("*.yaml")) if path.name != "kustomization.yaml"]
ALL = [document for path in [*FILES, ROOT / "deploy" / "kserve.yaml"] for document in documents(path)]


def one(kind: str, name: str = "deep-image-zoo") -> dict[str, Any]:
    (found,) = (entry for entry in ALL if (entry["kind"], entry["metadata"]["name"]) == (kind, name))
    return found


POD = one("Deployment")["spec"]["template"]
# The containers that run this server: in the Deployment and under KServe, each with the rest of its pod.
PODS = [POD["spec"], one("InferenceService", "zoo")["spec"]["predictor"]]


@pytest.mark.parametrize("document", [entry for entry in ALL if entry["kind"] not in CUSTOM], ids=lambda it: it["kind"])
def test_kubernetes_accepts_it(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_schemas_refuse_what_is_wrong() -> None:
    wrong = yaml.safe_load((FOLDER / "pdb.yaml").read_text())
    wrong["spec"]["maxUnavailabel"] = wrong["spec"].pop("maxUnavailable")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def closed(schema: Any) -> Any:
    """A custom resource's schema that refuses unknown fields, as `kubectl` does by default."""
    if isinstance(schema, list):
        return [closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema and not schema.get("additionalProperties"):
        found["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    if schema.get("x-kubernetes-int-or-string"):
        found = {"type": ["integer", "string"]}
    return found


@pytest.mark.skipif("ZOO_CRD_DIR" not in os.environ, reason="needs ZOO_CRD_DIR with custom resource definitions")
@pytest.mark.parametrize("kind", ["ServiceMonitor", "InferenceService"])
def test_the_operators_accept_it(kind: str) -> None:
    definitions = [entry for path in Path(os.environ["ZOO_CRD_DIR"]).glob("*.yaml") for entry in documents(path)]
    (definition,) = (entry for entry in definitions if entry["spec"]["names"]["kind"] == kind)
    for document in (entry for entry in ALL if entry["kind"] == kind):
        version = document["apiVersion"].rpartition("/")[2]
        (schema,) = (
            entry["schema"]["openAPIV3Schema"] for entry in definition["spec"]["versions"] if entry["name"] == version
        )
        strict = closed(schema)
        strict["properties"]["metadata"] = {"type": "object"}
        jsonschema.validate(document, strict)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kustomize_builds_the_folder() -> None:
    built = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=True).stdout
    kinds = sorted(entry["kind"] for entry in yaml.safe_load_all(built))
    assert kinds == sorted([*(entry["kind"] for path in FILES for entry in documents(path)), "ConfigMap"])


def test_every_file_is_used() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert sorted(kustomization["resources"]) == [path.name for path in FILES]


@pytest.mark.parametrize("pod", PODS)
def test_settings_exist_and_the_end_has_time(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    values = {entry["name"]: entry.get("value") for entry in container["env"]}
    names = {variable(name): name for name in OPTIONS}
    assert {name for name in values if name.startswith("ZOO_SERVE_")} <= names.keys()
    kinds = {names[name]: OPTIONS[names[name]][0] for name in values}
    given = {name: kinds[name](values[variable(name)]) for name in ("grpc_port", "linger")}
    settings = Settings(**given)
    assert values["ZOO_SERVE_APP"] == "0"
    probe = container["readinessProbe"]
    assert settings.linger > probe["periodSeconds"] * probe["failureThreshold"]
    last = settings.linger + settings.shutdown_timeout + server.LAST_REQUESTS + server.LAST_RESORT
    assert pod["terminationGracePeriodSeconds"] > last
    assert [port["containerPort"] for port in container["ports"]] == [settings.port, settings.grpc_port]


@pytest.mark.parametrize("pod", PODS)
def test_probes_ask_for_routes_that_need_no_key(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {
        "startup": "/v2/health/ready", "readiness": "/v2/health/ready", "liveness": "/v2/health/live",
    }  # fmt: skip
    described = create_app(Settings(app=False, api_key="x")).openapi()["paths"]
    assert all(described[path]["get"]["security"] == [] for path in paths.values())


@pytest.mark.parametrize("pod", PODS)
def test_the_pod_has_no_rights(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == int(
        re.search(r"^USER (\d+)", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)[1]
    )
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert container["resources"]["limits"].keys() == {"cpu", "memory"}


def test_what_selects_the_pods_finds_them() -> None:
    labels = POD["metadata"]["labels"]
    selectors = [
        one("Deployment")["spec"]["selector"]["matchLabels"],
        one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one("Service")["spec"]["selector"],
        one("Service", "deep-image-zoo-grpc")["spec"]["selector"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    monitor = one("ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= one("Service")["metadata"]["labels"].items()
    # The other Service has no such label, or each pod would be scraped twice.
    assert "labels" not in one("Service", "deep-image-zoo-grpc")["metadata"]
    ports = {port["name"] for port in POD["spec"]["containers"][0]["ports"]}
    services = [entry for entry in ALL if entry["kind"] == "Service"]
    assert all(port["targetPort"] in ports for entry in services for port in entry["spec"]["ports"])
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in one("Service")["spec"]["ports"]}
    target = one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", one("Deployment")["metadata"]["name"])
    assert "replicas" not in one("Deployment")["spec"]  # each apply would undo the autoscaler's choice


def metric_names() -> set[str]:
    metrics = Metrics()
    for metric in (metrics.requests, metrics.latency, metrics.queued, metrics.run, metrics.batch):
        metric.labels(*["x"] * len(metric._labelnames))
    return {sample.name for family in metrics.registry.collect() for sample in family.samples}


def test_the_autoscaler_and_the_dashboard_name_metrics_that_exist() -> None:
    (metric,) = one("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] in metric_names()
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) > 8
    for expression in expressions:
        names = re.findall(r"\b((?:serve|process)_\w+)\{", expression)
        assert names
        assert set(names) <= metric_names(), expression
        assert expression.count("(") == expression.count(")")
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
