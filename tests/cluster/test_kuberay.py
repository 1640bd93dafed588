"""The Kubernetes files: field names, pods, secrets, and who reaches them."""

import copy
import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.cluster.files import (
    KUBERAY,
    README,
    ROOT,
    SHARED,
    document,
    documents,
    lock_of,
    ray_cluster,
    ray_objects,
    ray_options,
)

# Field names of ray.io/v1 (KubeRay 1.6), and of those parts of Kubernetes that are used here. A value that is no
# mapping of names (None) is not looked into.
RESOURCES = {"requests": None, "limits": None}
CONTAINER = {
    "name": None, "image": None, "imagePullPolicy": None, "command": None, "args": None, "env": None, "envFrom": None,
    "ports": None, "resources": RESOURCES, "volumeMounts": None, "lifecycle": None, "livenessProbe": None,
    "readinessProbe": None, "startupProbe": None, "workingDir": None,
    "securityContext": {"allowPrivilegeEscalation": None, "capabilities": None, "runAsUser": None,
                        "runAsNonRoot": None, "readOnlyRootFilesystem": None, "seccompProfile": None},
}  # fmt: skip
POD = {
    "metadata": None,
    "spec": {
        "containers": CONTAINER, "initContainers": CONTAINER, "volumes": None, "serviceAccountName": None,
        "automountServiceAccountToken": None, "tolerations": None, "nodeSelector": None, "affinity": None,
        "imagePullSecrets": None, "priorityClassName": None, "terminationGracePeriodSeconds": None,
        "restartPolicy": None, "topologySpreadConstraints": None,
        "securityContext": {"runAsNonRoot": None, "runAsUser": None, "runAsGroup": None, "fsGroup": None,
                            "fsGroupChangePolicy": None, "seccompProfile": None, "supplementalGroups": None},
    },
}  # fmt: skip
CLUSTER_SPEC = {
    "rayVersion": None, "suspend": None, "managedBy": None, "headServiceAnnotations": None,
    "enableInTreeAutoscaling": None, "upgradeStrategy": None,
    "authOptions": {"mode": None, "secretName": None, "enableK8sTokenAuth": None},
    "autoscalerOptions": {"version": None, "resources": RESOURCES, "image": None, "imagePullPolicy": None,
                          "securityContext": None, "idleTimeoutSeconds": None, "upscalingMode": None, "env": None,
                          "envFrom": None, "volumeMounts": None},
    "gcsFaultToleranceOptions": {"redisUsername": None, "redisPassword": None, "externalStorageNamespace": None,
                                 "redisAddress": None},
    "headGroupSpec": {"template": POD, "headService": None, "enableIngress": None, "rayStartParams": None,
                      "serviceType": None, "resources": None, "labels": None},
    "workerGroupSpecs": {"groupName": None, "replicas": None, "minReplicas": None, "maxReplicas": None,
                         "numOfHosts": None, "idleTimeoutSeconds": None, "rayStartParams": None, "template": POD,
                         "scaleStrategy": None, "suspend": None, "resources": None, "labels": None},
}  # fmt: skip
SPECS: dict[str, dict[str, Any]] = {
    "RayCluster": CLUSTER_SPEC,
    "RayJob": {
        "entrypoint": None, "clusterSelector": None, "rayClusterSpec": CLUSTER_SPEC, "submissionMode": None,
        "submitterPodTemplate": POD, "submitterConfig": {"backoffLimit": None}, "runtimeEnvYAML": None, "jobId": None,
        "metadata": None, "backoffLimit": None, "activeDeadlineSeconds": None, "shutdownAfterJobFinishes": None,
        "ttlSecondsAfterFinished": None, "entrypointNumCpus": None, "entrypointNumGpus": None,
        "entrypointResources": None, "suspend": None, "deletionStrategy": None, "managedBy": None,
    },
    "RayService": {
        "serveConfigV2": None, "rayClusterConfig": CLUSTER_SPEC, "serveService": None, "upgradeStrategy": None,
        "excludeHeadPodFromServeSvc": None, "serviceUnhealthySecondThreshold": None,
        "deploymentUnhealthySecondThreshold": None, "rayClusterDeletionDelaySeconds": None, "suspend": None,
    },
}  # fmt: skip


def unknown(value: Any, known: Any, at: str = "spec") -> list[str]:
    """Paths of fields that are not in the table; items of a list are of one kind."""
    if isinstance(value, list):
        return [one for item in value for one in unknown(item, known, at)]
    if known is None or not isinstance(value, Mapping):
        return []
    found = [f"{at}.{key}" for key in value if key not in known]
    return found + [
        one for key in value if key in known for one in unknown(value[key], known[key], f"{at}.{key}")
    ]


def clusters() -> dict[str, Mapping[str, Any]]:
    """Specs of Ray clusters by file."""
    return {name: ray_cluster(one["spec"]) for name, one in ray_objects() if one["kind"] != "RayJob"}


def pods(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_kubernetes_has_a_cluster_a_job_each_and_a_service() -> None:
    assert sorted((one["kind"], one["metadata"]["name"]) for _, one in ray_objects()) == [
        ("RayCluster", "gve"),
        ("RayJob", "gve-evaluate"),
        ("RayJob", "gve-index"),
        ("RayJob", "gve-synthesize"),
        ("RayJob", "gve-train"),
        ("RayService", "gve-search"),
    ]


def test_kuberay_fields_are_known() -> None:
    for name, one in ray_objects():
        assert one["apiVersion"] == "ray.io/v1", name
        assert set(one) == {"apiVersion", "kind", "metadata", "spec"}, name
        assert unknown(one["spec"], SPECS[one["kind"]]) == [], name
        # A DNS label; KubeRay puts endings behind it.
        assert re.fullmatch(r"[a-z][a-z0-9-]{0,45}[a-z0-9]", one["metadata"]["name"]), name


def test_an_unknown_kuberay_field_is_seen() -> None:
    spec = copy.deepcopy(document("kuberay/ray-cluster.yaml")["spec"])
    spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resource"] = {}
    assert unknown(spec, CLUSTER_SPEC) == ["spec.workerGroupSpecs.template.spec.containers.resource"]


def test_all_that_kubernetes_is_told_is_in_one_namespace() -> None:
    found = [one for name in KUBERAY for one in documents(f"kuberay/{name}") if one["kind"] != "Namespace"]
    (made,) = [one for one in documents("kuberay/namespace.yaml") if one["kind"] == "Namespace"]
    assert {one["metadata"]["namespace"] for one in found} == {made["metadata"]["name"]}


@pytest.mark.parametrize("name", ["ray-cluster.yaml", "serve.yaml"])
def test_kuberay_clusters_are_of_the_locked_ray_with_a_token(name: str) -> None:
    spec = clusters()[name]
    assert spec["rayVersion"] == lock_of(ROOT / "setup/cpu.lock")["ray"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "gve-ray-token"}
    assert "create secret generic gve-ray-token --from-file=auth_token=" in README
    assert spec["enableInTreeAutoscaling"] is True


@pytest.mark.parametrize("name", ["ray-cluster.yaml", "serve.yaml"])
def test_kuberay_start_parameters_are_rays(name: str) -> None:
    """KubeRay makes options of `ray start` of them, all texts."""
    spec = clusters()[name]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        options = [f"--{key}={value}" for key, value in group["rayStartParams"].items()]
        found = ray_options(["ray", "start", *options])
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert all(found[key.replace("-", "_")] is not None for key in group["rayStartParams"])


@pytest.mark.parametrize("name", ["ray-cluster.yaml", "serve.yaml"])
def test_kuberay_pods_declare_what_they_hold(name: str) -> None:
    spec = clusters()[name]
    (claim,) = [one for one in documents("kuberay/namespace.yaml") if one["kind"] == "PersistentVolumeClaim"]
    for pod in pods(spec):
        (container,) = pod["containers"]
        held = container["resources"]
        assert held["requests"] == held["limits"]
        assert {"cpu", "memory", "ephemeral-storage"} <= set(held["limits"])
        on_gpu = "nvidia.com/gpu" in held["limits"]
        assert container["image"].endswith("-gpu" if on_gpu else "-cpu")
        assert [one["key"] for one in pod.get("tolerations", [])] == (["nvidia.com/gpu"] if on_gpu else [])
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["fsGroup"] == 1000
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        volumes = {one["name"]: one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"]}
        mounts = {volumes[one["name"]]: one["mountPath"] for one in container["volumeMounts"]}
        assert mounts == {claim["metadata"]["name"]: SHARED}
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert sum("nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"] for pod in pods(spec)) == 1
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("name", ["ray-cluster.yaml", "serve.yaml"])
def test_kubernetes_gives_secrets_by_name_only(name: str) -> None:
    for pod in pods(clusters()[name]):
        for variable in pod["containers"][0]["env"]:
            is_secret = re.search("TOKEN|KEY|SECRET|PASSWORD", variable["name"]) is not None
            assert ("secretKeyRef" in variable.get("valueFrom", {})) == is_secret
    if name == "serve.yaml":
        for pod in pods(clusters()[name]):
            (key,) = [one for one in pod["containers"][0]["env"] if one["name"] == "GVE_API_KEY"]
            assert key["valueFrom"]["secretKeyRef"] == {"name": "gve-api-key", "key": "key"}
        assert "create secret generic gve-api-key --from-file=key=" in README


def test_only_the_namespace_and_the_operator_reach_ray() -> None:
    (policy,) = [one for one in documents("kuberay/namespace.yaml") if one["kind"] == "NetworkPolicy"]
    nodes = {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    assert policy["spec"]["podSelector"] == nodes
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    among, others = policy["spec"]["ingress"]
    assert among == {"from": [{"podSelector": nodes}]}
    assert sorted(one["port"] for one in others["ports"]) == [8000, 8265]
    assert all("podSelector" in one for one in others["from"])
