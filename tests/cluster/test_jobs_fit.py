"""The jobs fit on the clusters, and each reads the output of the one before."""

from dataclasses import replace
from typing import Any

import pytest

from gve_ray.config import config_of
from gve_ray.job import PreflightError
from gve_ray.preflight import Needs, Workers, check_fit
from gve_ray.serving.config import ServeConfig
from tests.cluster.files import (
    JOBS,
    SHARED,
    document,
    kuberay_job,
    ray_cluster,
    ray_objects,
    serve_files,
    with_defaults,
)


def test_kuberay_jobs_select_the_existing_cluster() -> None:
    cluster = document("kuberay/ray-cluster.yaml")["metadata"]["name"]
    for _, kube_object in ray_objects():
        if kube_object["kind"] == "RayJob":
            assert kube_object["spec"]["clusterSelector"] == {"ray.io/cluster": cluster}


def test_kuberay_jobs_read_the_output_of_the_job_before() -> None:
    made, trained = kuberay_job("synthesize"), kuberay_job("train")
    evaluated, indexed = kuberay_job("evaluate"), kuberay_job("index")
    assert [dataset.uri for dataset in trained.data] == [f"{made.output}/uvrd"]
    assert evaluated.contamination.sources == (trained.assets,) == (f"{made.output}/assets.lance",)
    adapter = f"{trained.output}/adapter"
    assert [model.adapter for model in evaluated.models] == [None, adapter]
    assert indexed.model.adapter == adapter
    assert {evaluated.models[1].model, indexed.model.model} == {trained.model}
    (served,) = serve_files()["kuberay/serve.yaml"]["applications"][0]["args"]["models"]
    assert served["index"] == indexed.output
    outputs = [made.output, trained.output, evaluated.output, evaluated.cache, evaluated.root, indexed.output]
    assert all(str(path).startswith(f"{SHARED}/") for path in [*outputs, made.input, indexed.input])


def node_types(name: str) -> list[dict[str, Any]]:
    """Return the resources and the maximum number of each node type in a cluster file, as read by
    Ray.
    """
    if name == "ray-cluster.yaml":
        types = with_defaults(document(name))["available_node_types"]
        return [{**t["resources"], "max_workers": t["max_workers"]} for t in types.values()]
    from ray.autoscaler._private.kuberay import autoscaling_config

    kube_object = next(o for file, o in ray_objects() if f"kuberay/{file}" == name)
    cluster = {"metadata": kube_object["metadata"], "spec": ray_cluster(kube_object["spec"])}
    types = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    return [{**t["resources"], "max_workers": t["max_workers"]} for t in types.values()]


def nodes(name: str) -> list[dict[str, float]]:
    """Return all worker nodes of a cluster at its full size."""
    return [
        {kind: amount for kind, amount in node_type.items() if kind != "max_workers"}
        for node_type in node_types(name)
        for _ in range(node_type["max_workers"])
    ]


def needs_of(job: str, config: Any) -> Needs:
    if job == "train":  # all ranks, not only the minimum
        config = replace(config, resources=replace(config.resources, min_workers=None))
    needs: Needs = JOBS[job].needs_of(config)
    return needs


def comparable(pool: Workers, available: list[dict[str, float]]) -> Workers:
    """Drop the memory demand of a pool if the nodes declare no memory, as on AWS, where Ray reads
    it at run time.
    """
    if any("memory" in node for node in available):
        return pool
    return replace(pool, demands={kind: amount for kind, amount in pool.demands.items() if kind != "memory"})


CLUSTERS = ["ray-cluster.yaml", "kuberay/ray-cluster.yaml"]


@pytest.mark.parametrize("job", ["synthesize", "train", "evaluate", "index"])
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_jobs_fit_on_the_clusters(job: str, cluster: str) -> None:
    """Ray would wait forever for a resource that no node type has."""
    available = nodes(cluster)
    needs = needs_of(job, kuberay_job(job))
    assert needs.workers
    for pool in needs.workers:
        assert pool.wait_for_nodes  # because the cluster starts without worker nodes
        check_fit([comparable(pool, available)], available)
        with pytest.raises(PreflightError):
            check_fit(
                [comparable(replace(pool, demands={**pool.demands, "GPU": 100.0}), available)], available
            )


def test_service_fits_on_its_cluster() -> None:
    args = serve_files()["kuberay/serve.yaml"]["applications"][0]["args"]
    config = config_of(ServeConfig, args)
    smallest = [
        {kind: float(amount) for kind, amount in node_type.items() if kind != "max_workers"}
        for node_type in node_types("kuberay/serve.yaml")
        if node_type["max_workers"]
    ]
    needs = JOBS["serve"].needs_of(config)
    check_fit(needs.workers, smallest)  # on the one node of each type that always runs
    grown = [replace(pool, count=8) for pool in needs.workers]
    check_fit(grown, nodes("kuberay/serve.yaml"))


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_decoding_needs_no_gpu_node(cluster: str) -> None:
    """All decoding fits on the nodes without GPUs."""
    cpu_nodes = [node for node in nodes(cluster) if not node.get("GPU")]
    (media,) = [
        pool
        for pool in needs_of("synthesize", kuberay_job("synthesize")).workers
        if pool.option == "resources.media"
    ]
    check_fit([comparable(media, cpu_nodes)], cpu_nodes)
