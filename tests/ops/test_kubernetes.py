"""The Kubernetes manifests without a cluster: valid, hardened, and in step with everything else."""

import re
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from newsloom.settings import VARIABLES, Settings
from ops.k8s.build_prometheus_rule import TARGET, rendered
from tests.ops.tools import OPS, load_yaml, program, run

BASE = OPS / "k8s" / "base"
VERSION = "1.36"
CRDS = {"ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule"}
"""Kinds whose schemas are not Kubernetes' own."""


def documents() -> list[dict[str, Any]]:
    kustomization = load_yaml(BASE / "kustomization.yaml")
    return [
        document
        for name in kustomization["resources"]
        for document in yaml.safe_load_all((BASE / name).read_text())
    ]


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [document for document in documents() if document["kind"] in kinds]


def settings_env() -> dict[str, str]:
    lines = (BASE / "settings.env").read_text().split()
    return dict(line.split("=", 1) for line in lines)


def test_every_file_of_the_base_is_in_the_kustomization() -> None:
    listed = set(load_yaml(BASE / "kustomization.yaml")["resources"])
    assert listed | {"kustomization.yaml"} == {path.name for path in BASE.glob("*.yaml")}


def test_manifests_follow_the_schemas_of_kubernetes() -> None:
    for document in documents():
        if document["kind"] not in CRDS:
            kubernetes_validate.validate(document, VERSION, strict=True)


def test_kustomize_builds_base_and_example_where_there_is_one() -> None:
    builders = {"kustomize": "build", "kubectl": "kustomize"}  # kubectl has one built in
    builder = next(filter(shutil.which, builders), None)
    if builder is None:
        pytest.skip("no kustomize here; the manifests were validated one by one")
    for folder in ("base", "example"):
        built = run(program(builder), builders[builder], OPS / "k8s" / folder)
        for document in yaml.safe_load_all(built):
            if document["kind"] not in CRDS:
                kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_prometheus_rule_is_made_from_the_rules_file() -> None:
    assert TARGET.read_text() == rendered(), "run: python ops/k8s/build_prometheus_rule.py"


def test_promtool_accepts_the_groups_of_the_prometheus_rule(tmp_path: Path) -> None:
    (rule,) = of_kind("PrometheusRule")
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump(rule["spec"]))
    run(program("promtool"), "check", "rules", path)


@pytest.mark.parametrize(
    "document", of_kind("Deployment", "Job", "CronJob"), ids=lambda d: d["metadata"]["name"]
)
def test_pods_are_hardened(document: dict[str, Any]) -> None:
    job = document["spec"].get("jobTemplate", document)
    pod = job["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] >= 10_000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    for volume in pod["volumes"]:
        if "secret" in volume:
            assert volume["secret"]["defaultMode"] == 0o440


def test_ingest_drains_before_it_is_killed_and_is_probed_for_the_right_things() -> None:
    deployment = next(d for d in of_kind("Deployment") if "ingest" in d["metadata"]["name"])
    pod = deployment["spec"]["template"]["spec"]
    settings = Settings()
    drain = settings.ingest.drain_seconds + settings.postgres.statement_timeout_seconds
    assert pod["terminationGracePeriodSeconds"] > drain
    (container,) = pod["containers"]
    paths = {
        probe: container[probe]["httpGet"]["path"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    assert container["ports"] == [{"name": "admin", "containerPort": settings.admin.port}]
    assert "replicas" not in deployment["spec"], "KEDA and kubectl apply would fight over it"


def test_the_settings_are_accepted_and_safe() -> None:
    known = {v.name for v in VARIABLES} | {v.file_name for v in VARIABLES if v.is_secret}
    environment = settings_env()
    assert set(environment) <= known
    dsn = "postgresql://newsloom_ingest:x@db.example/newsloom?sslmode=verify-full"

    def secret(path: Path, *_: object) -> str:
        return dsn if path.name == "postgres-dsn" else "password"

    settings = Settings.from_env(environment, read_secret=secret)
    assert settings.kafka.uses_tls
    assert not settings.allow_insecure


def test_scaling_follows_the_names_and_partitions_of_everything_else() -> None:
    (scaled,) = of_kind("ScaledObject")
    trigger = scaled["spec"]["triggers"][0]["metadata"]
    settings, environment = Settings(), settings_env()
    assert trigger["consumerGroup"] == settings.ingest.consumer_group
    assert trigger["topic"] == settings.kafka.articles_topic
    assert trigger["bootstrapServers"] == environment["NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS"]
    assert all(isinstance(value, str) for value in trigger.values())
    topics = next(d for d in of_kind("Job") if d["metadata"]["name"] == "newsloom-topics")
    arguments = " ".join(topics["spec"]["template"]["spec"]["containers"][0]["args"])
    (partitions,) = re.findall(r"--partitions=(\d+)", arguments)
    assert scaled["spec"]["maxReplicaCount"] == int(partitions)
    deployments = {deployment["metadata"]["name"] for deployment in of_kind("Deployment")}
    assert scaled["spec"]["scaleTargetRef"]["name"] in deployments


def test_secrets_that_are_read_are_the_ones_that_the_documentation_lists() -> None:
    page = (OPS.parent / "docs" / "deployment.md").read_text()
    keys = {Path(v).name for n, v in settings_env().items() if v.startswith("/run/secrets/")}
    (authentication,) = of_kind("TriggerAuthentication")
    keys |= {item["key"] for item in authentication["spec"]["secretTargetRef"]}
    for key in keys:
        assert f"`{key}`" in page, key


def test_maintenance_runs_one_at_a_time_and_often_enough() -> None:
    (job,) = of_kind("CronJob")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    minute, *rest = job["spec"]["schedule"].split()
    assert minute.isdigit()
    assert rest == ["*"] * 4  # every hour: partitions are made a week ahead
    template = job["spec"]["jobTemplate"]["spec"]
    assert template["activeDeadlineSeconds"] < 3600
    (container,) = template["template"]["spec"]["containers"]
    assert container["args"] == ["maintain"]


def test_every_role_is_scraped() -> None:
    (monitor,) = of_kind("PodMonitor")
    (expression,) = monitor["spec"]["selector"]["matchExpressions"]
    roles = {
        d["spec"]["template"]["metadata"]["labels"][expression["key"]]
        for d in of_kind("Deployment")
    }
    assert set(expression["values"]) == roles


def test_the_monitor_gives_the_job_its_name() -> None:
    (monitor,) = of_kind("PodMonitor")
    labels = load_yaml(BASE / "kustomization.yaml")["labels"][0]["pairs"]
    assert labels[monitor["spec"]["jobLabel"]] == "newsloom"
    scrape = load_yaml(OPS / "prometheus" / "prometheus.yml")["global"]["scrape_interval"]
    assert monitor["spec"]["podMetricsEndpoints"][0]["interval"] == scrape
