"""Files by which sites start containers: they hold against schemas, and name only what there is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from gadgets.monitoring.observers import Observers
from pass_recon_cli.main import build_parser

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "pass"
COMPOSE = ROOT / "deploy" / "compose.yaml"
GO_PATH = Path("/usr/share/gocode")  # where Debian has Go's libraries
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "all on": {
        "gpus": 1,
        "autoscaling": {"enabled": True},
        "spool": {"claim": "raw", "deidentify": True},
        "bundles": {"claim": "own"},
        "networkPolicy": {"scanners": [{"ipBlock": {"cidr": "10.1.2.0/24"}}]},
        "nodeSelector": {"gpu": "yes"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "extraArguments": ["--stock-client"],
    },
    "a Gadgetron": {"kind": "gadgetron", "image": {"repository": "pass-gadgetron"}},
    "little": {"disruptionBudget": {"enabled": False}, "networkPolicy": {"enabled": False}},
}


@pytest.fixture(scope="module")
def render(tmp_path_factory):
    """Renders the chart with values: by helm, or by the libraries from which helm is made."""
    folder = tmp_path_factory.mktemp("helm")
    if shutil.which("helm"):
        command = ["helm", "template", "trial", str(CHART)]
        flag = ["--values"]
    elif shutil.which("go") and (GO_PATH / "src/github.com/Masterminds/sprig").is_dir():
        program = folder / "render"
        environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GO_PATH), "GOCACHE": str(folder / "cache")}
        source = str(ROOT / "tests" / "deploy" / "render.go")
        subprocess.run(["go", "build", "-o", str(program), source], check=True, env=environment, timeout=280)
        command, flag = [str(program), str(CHART), "trial"], []
    else:
        pytest.skip(
            "neither helm nor Debian's golang-go, golang-github-masterminds-sprig-dev, golang-k8s-sigs-yaml-dev"
        )

    def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
        path = folder / "values.json"
        path.write_text(json.dumps(values))
        done = subprocess.run([*command, *flag, str(path)], check=True, capture_output=True, text=True, timeout=60)
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return rendered


def objects(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in documents}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_chart_holds_against_the_schemas_of_kubernetes(render, variant):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    documents = render(VARIANTS[variant])
    assert {"Deployment", "Service"} <= set(objects(documents))
    for document in documents:
        kubernetes_validate.validate(document, "1.30", strict=True)


@pytest.mark.slow
def test_a_pod_may_do_little_and_gets_its_time_to_drain(render):
    made = objects(render(VARIANTS["all on"]))
    assert set(made) == {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"}
    pod = made["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    args = build_parser().parse_args(container["args"])  # each option is one that the command has
    assert pod["terminationGracePeriodSeconds"] >= args.drain_seconds + 10
    assert "preStop" in container["lifecycle"]
    mounted = {one["name"] for one in container["volumeMounts"]}
    assert mounted == {one["name"] for one in pod["volumes"]} == {"tmp", "storage", "spool", "bundles"}
    (metric,) = made["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "pass_scans_in_flight"
    assert "replicas" not in made["Deployment"]["spec"], "the autoscaler's business"


def test_compose_starts_what_there_is():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    args = build_parser().parse_args(services["server"]["command"])
    assert args.metrics_port == 9102
    assert services["server"]["read_only"]
    volumes = yaml.safe_load(COMPOSE.read_text())["volumes"]
    for name, service in services.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} would be reachable from everywhere"
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in volumes or (ROOT / "deploy" / source).exists(), volume
    (job,) = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"server:{args.metrics_port}"]


def test_the_dashboard_asks_for_metrics_that_there_are():
    pytest.importorskip("prometheus_client")
    from gadgets.monitoring.metrics import Metrics

    metrics = Metrics()
    observers = Observers((metrics,), "x", pytest.fail)
    observers.told("warning", "odd")
    known = set(re.findall(r"^# TYPE (\S+)", metrics.text().decode(), re.MULTILINE))
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/pass.json").read_text())
    for panel in dashboard["panels"]:
        (name,) = re.findall(r"\b(?:pass|process)_\w+", panel["targets"][0]["expr"])
        assert {name, name.removesuffix("_bucket")} & known, name


@pytest.mark.parametrize("name", ["server", "gadgetron", "training"], ids="{}.Dockerfile".format)
def test_images_are_pinned_and_run_as_nobody(name):
    text = (ROOT / "docker" / f"{name}.Dockerfile").read_text()
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "10001:10001"
    assert "org.opencontainers.image.version" in text
    for lock in re.findall(r"docker/locks/([\w-]+)\.txt", text + (ROOT / "docker/install_torch.sh").read_text()):
        assert (ROOT / "docker" / "locks" / f"{lock}.txt").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "docker" / "locks").glob("*.txt")), ids=lambda path: path.name)
def test_each_package_of_a_lock_has_its_hashes(path):
    if path.stem == "torch-cpu-3.10":
        pytest.skip("its index could not be reached when it was written, as it says")
    text = path.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if "==" in line]
    assert lines
    assert [line.split()[0] for line in lines if "--hash=sha256:" not in line] == []


@pytest.mark.parametrize("code", [0, 3])
def test_the_entry_point_ends_as_its_server_does_and_starts_the_resident_process_again(tmp_path, code):
    programs = {
        "gadgetron": f"trap 'exit {code}' TERM\necho started\nwhile :; do sleep 0.1; done",
        "pass-recon": f"echo resident >> {tmp_path}/starts\nexit 1",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    process = subprocess.Popen(
        ["sh", str(ROOT / "docker" / "gadgetron_entrypoint.sh")],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == "started\n"
        for _ in range(600):
            if (tmp_path / "starts").exists() and (tmp_path / "starts").read_text().count("resident") > 1:
                break
            time.sleep(0.1)
        else:
            raise AssertionError("the resident process was not started again")
        process.terminate()
        assert process.wait(60) == code
