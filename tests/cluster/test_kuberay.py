"""The Kubernetes files: schemas, pods, secrets, and network access."""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.cluster.files import (
    KUBERAY,
    ROOT,
    SHARED,
    document,
    documents,
    lock_of,
    ray_cluster,
    ray_objects,
    ray_options,
)

SCHEMAS = Path(__file__).parent / "schemas"


@cache
def validator(kind: str) -> jsonschema.protocols.Validator:
    """Return a validator by the published schema of a kind that also refuses unknown fields."""
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{kind}.json").read_text())
    refuse_unknown_fields(schema)
    return jsonschema.Draft202012Validator(schema)


def refuse_unknown_fields(schema: Any) -> None:
    """Set `additionalProperties` to false, in place, for all objects with a fixed set of fields."""
    if isinstance(schema, list):
        for item in schema:
            refuse_unknown_fields(item)
    elif isinstance(schema, dict):
        if schema.get("properties") and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            refuse_unknown_fields(value)


def clusters() -> dict[str, Mapping[str, Any]]:
    """Return the specs of Ray clusters by file."""
    return {name: ray_cluster(obj["spec"]) for name, obj in ray_objects() if obj["kind"] != "RayJob"}


def pods(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


@pytest.mark.parametrize("name", KUBERAY)
def test_objects_match_the_published_schemas(name: str) -> None:
    for kube_object in documents(f"kuberay/{name}"):
        validator(kube_object["kind"]).validate(kube_object)


@pytest.mark.parametrize(
    "fault", [{"resource": {}}, {"image": 3}, {"ports": [{"containerPort": "dashboard"}]}], ids=str
)
def test_faults_in_a_pod_are_found(fault: dict[str, Any]) -> None:
    cluster = document("kuberay/ray-cluster.yaml")
    cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0] |= fault
    with pytest.raises(jsonschema.ValidationError):
        validator("RayCluster").validate(cluster)


def test_all_objects_are_in_the_same_namespace() -> None:
    objects = [obj for name in KUBERAY for obj in documents(f"kuberay/{name}")]
    (namespace,) = [obj["metadata"]["name"] for obj in objects if obj["kind"] == "Namespace"]
    assert {obj["metadata"]["namespace"] for obj in objects if obj["kind"] != "Namespace"} == {namespace}


@pytest.mark.parametrize("name", ["ray-cluster.yaml", "serve.yaml"])
def test_kuberay_clusters_use_the_locked_version_of_ray_and_a_token(name: str) -> None:
    spec = clusters()[name]
    assert spec["rayVersion"] == lock_of(ROOT / "setup/cpu.lock")["ray"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "gve-ray-token"}
    assert spec["enableInTreeAutoscaling"] is True


@pytest.mark.parametrize("name", ["ray-cluster.yaml", "serve.yaml"])
def test_kuberay_start_parameters_are_options_of_ray_start(name: str) -> None:
    """KubeRay passes them to `ray start`; all of them have to be strings."""
    spec = clusters()[name]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        options = [f"--{key}={value}" for key, value in group["rayStartParams"].items()]
        parsed = ray_options(["ray", "start", *options])
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert all(parsed[key.replace("-", "_")] is not None for key in group["rayStartParams"])


@pytest.mark.parametrize("name", ["ray-cluster.yaml", "serve.yaml"])
def test_kuberay_pods_reserve_resources_and_mount_the_shared_volume(name: str) -> None:
    spec = clusters()[name]
    (claim,) = [obj for obj in documents("kuberay/namespace.yaml") if obj["kind"] == "PersistentVolumeClaim"]
    for pod in pods(spec):
        (container,) = pod["containers"]
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["limits"])
        on_gpu = "nvidia.com/gpu" in resources["limits"]
        assert container["image"].endswith("-gpu" if on_gpu else "-cpu")
        assert [toleration["key"] for toleration in pod.get("tolerations", [])] == (
            ["nvidia.com/gpu"] if on_gpu else []
        )
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["fsGroup"] == 1000
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        volumes = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]}
        mounts = {volumes[m["name"]]: m["mountPath"] for m in container["volumeMounts"]}
        assert mounts == {claim["metadata"]["name"]: SHARED}
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert sum("nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"] for pod in pods(spec)) == 1
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("name", ["ray-cluster.yaml", "serve.yaml"])
def test_secrets_are_given_by_reference_only(name: str) -> None:
    for pod in pods(clusters()[name]):
        for variable in pod["containers"][0]["env"]:
            is_secret = re.search("TOKEN|KEY|SECRET|PASSWORD", variable["name"]) is not None
            assert ("secretKeyRef" in variable.get("valueFrom", {})) == is_secret
    if name == "serve.yaml":
        for pod in pods(clusters()[name]):
            (key,) = [v for v in pod["containers"][0]["env"] if v["name"] == "GVE_API_KEY"]
            assert key["valueFrom"]["secretKeyRef"] == {"name": "gve-api-key", "key": "key"}


def test_only_the_namespace_and_the_operator_reach_ray() -> None:
    (policy,) = [obj for obj in documents("kuberay/namespace.yaml") if obj["kind"] == "NetworkPolicy"]
    nodes = {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    assert policy["spec"]["podSelector"] == nodes
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    between_nodes, from_others = policy["spec"]["ingress"]
    assert between_nodes == {"from": [{"podSelector": nodes}]}
    assert sorted(port["port"] for port in from_others["ports"]) == [8000, 8265]
    assert all("podSelector" in source for source in from_others["from"])
