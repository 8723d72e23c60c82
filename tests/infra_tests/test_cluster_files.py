"""The files for containers, Kubernetes and clouds, each by the tool that reads it, or by its schema."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from paretovid.infra.ray_cluster import CLUSTER_ENVIRONMENT
from paretovid.platform.cli.main import parse
from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.search.location import STORAGE_VARIABLE
from paretovid.platform.storage.home import HOME_VARIABLE
from paretovid.platform.storage.store import CACHE_VARIABLE
from paretovid.platform.storage.urls import check_no_secret

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
SCHEMA = yaml.safe_load((Path(__file__).parent / "kuberay_v1.yaml").read_text())
MANIFESTS = sorted((INFRA / "kubernetes").glob("*.yaml"))


def example_settings() -> dict[str, str]:
    lines = (INFRA / "stores.env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def pods(found: Any) -> list[dict[str, Any]]:
    """All pod templates of a manifest, wherever they are."""
    if isinstance(found, dict):
        own = [found["template"]["spec"]] if "template" in found else []
        return own + [pod for value in found.values() for pod in pods(value)]
    return [pod for value in found for pod in pods(value)] if isinstance(found, list) else []


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes_takes_it(path: Path) -> None:
    manifest = yaml.safe_load(path.read_text())
    jsonschema.validate(manifest, SCHEMA)
    cluster = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert len(pods(manifest)) == 2
    for pod in pods(manifest):
        assert pod["securityContext"]["runAsNonRoot"]
        (container,) = pod["containers"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["envFrom"] == [{"secretRef": {"name": "paretovid-stores"}}]
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            each["name"] for each in pod["volumes"]
        }


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda cluster: cluster.pop("headGroupSpec"),
        lambda cluster: cluster.update(workerGroups=[]),
        lambda cluster: cluster["authOptions"].update(mode="none"),
        lambda cluster: cluster["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda cluster: cluster["workerGroupSpecs"][0].update(replicas="2"),
    ],
)
def test_the_schema_can_refuse(path: Path, spoil: Any) -> None:
    manifest = yaml.safe_load(path.read_text())
    spoil(manifest["spec"].get("rayClusterSpec", manifest["spec"]))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, SCHEMA)


def test_the_command_of_the_job_is_one_of_ours() -> None:
    job = yaml.safe_load((INFRA / "kubernetes" / "ray-job.yaml").read_text())
    program, *words = shlex.split(job["spec"]["entrypoint"])
    assert program == "paretovid"
    config = load_sweep_config(parse(words).overrides)
    assert (config.name, config.cluster.address) == ("nightly", "auto")


def test_ray_up_takes_the_cloud_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((INFRA / "cloud" / "aws.yaml").read_text())
    validate_config(prepare_config(config))
    (start,) = config["head_start_ray_commands"]
    assert (
        "RAY_AUTH_MODE=token" in start and "--dashboard-host=127.0.0.1" in start and "--num-cpus=0" in start
    )
    assert all("RAY_AUTH_MODE=token" in command for command in config["worker_start_ray_commands"])
    spoiled = {**config, "head_node_typ": "head"}
    with pytest.raises(Exception, match="head_node_typ"):
        validate_config(prepare_config(spoiled))


def compose_command() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        found = shutil.which(command[0])
        if found and not subprocess.run([*command, "version"], capture_output=True, timeout=30).returncode:
            return command
    return None


def filled_in(tmp_path: Path) -> Path:
    path = tmp_path / "stores.env"
    path.write_text("\n".join(f"{name}={value or 'filled-in'}" for name, value in example_settings().items()))
    return path


def test_docker_compose_takes_the_stores(tmp_path: Path) -> None:
    command = compose_command()
    if command is None:
        pytest.skip("docker compose is not installed")
    file = str(INFRA / "compose.yaml")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [*command, "--env-file", str(filled_in(tmp_path)), "-f", file, "config"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == {"postgres", "s3", "buckets", "mlflow"}
    empty = str(INFRA / "stores.env.example")
    refused = subprocess.run(
        [*command, "--env-file", empty, "-f", file, "config"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert refused.returncode != 0 and "stores.env" in refused.stderr, "a password must not be empty"


def test_the_stores_listen_to_this_machine_only() -> None:
    services = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)
    words = services["mlflow"]["command"]
    assert "--app-name=basic-auth" in words and any(word.startswith("--allowed-hosts=") for word in words)
    for service in services.values():
        for source in (
            volume.split(":")[0] for volume in service.get("volumes", ()) if volume.startswith("./")
        ):
            assert (INFRA / source).is_file(), source


def test_the_file_of_settings_names_what_is_read_and_holds_no_secret() -> None:
    settings = example_settings()
    assert {HOME_VARIABLE, CACHE_VARIABLE, STORAGE_VARIABLE, "MLFLOW_TRACKING_URI"} <= settings.keys()
    secret = re.compile(r"PASSWORD|SECRET|KEY_ID")
    assert [name for name in settings if secret.search(name)], "the file has places for secrets"
    assert not any(value for name, value in settings.items() if secret.search(name))
    for name, value in settings.items():
        check_no_secret(value, name)


def test_the_image_is_made_of_what_is_there() -> None:
    lines = (INFRA / "container" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    assert {line[0] for line in words} <= {
        "ARG", "FROM", "RUN", "COPY", "USER", "WORKDIR", "VOLUME", "ENV", "CMD"
    }  # fmt: skip
    copied = [
        name for line in words if line[0] == "COPY" and "--from=build" not in line for name in line[1:-1]
    ]
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied and all((ROOT / name).exists() for name in copied)
    assert set(copied) == sent
    variables = dict(pair.split("=", 1) for line in words if line[0] == "ENV" for pair in line[1:])
    assert CLUSTER_ENVIRONMENT.items() <= variables.items()
    assert ["USER", "1000"] in words


@pytest.mark.parametrize(
    ("base", "taken"),
    [("python@sha256:0d1e", True), ("python:3.11-slim-bookworm", False), ("", False)],
)
def test_the_image_is_built_on_a_digest_only(base: str, taken: bool) -> None:
    text = (INFRA / "container" / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert bases == ["${BASE}", "${BASE}"]
    assert "ARG BASE=" not in text, "a default would be used without being looked up"
    (check,) = re.findall(r"^RUN (case .*)$", text, re.MULTILINE)
    done = subprocess.run(["sh", "-c", check], env={"BASE": base}, capture_output=True, text=True)
    assert (done.returncode == 0) is taken
    assert taken or "NAME@sha256:DIGEST" in done.stderr


def test_the_policy_grants_no_more_than_the_home() -> None:
    policy = json.loads((INFRA / "s3-policy.json").read_text())
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not any("*" in action for action in actions)
        assert "BUCKET" in statement["Resource"]
