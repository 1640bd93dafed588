"""The jobs on those clusters: each finds what the one before made, and nodes that can hold its workers."""

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


def test_kuberay_jobs_run_on_the_cluster_there_is() -> None:
    cluster = document("kuberay/ray-cluster.yaml")["metadata"]["name"]
    for _, one in ray_objects():
        if one["kind"] == "RayJob":
            assert one["spec"]["clusterSelector"] == {"ray.io/cluster": cluster}


def test_kuberay_jobs_hand_on_what_they_make() -> None:
    made, trained = kuberay_job("synthesize"), kuberay_job("train")
    evaluated, indexed = kuberay_job("evaluate"), kuberay_job("index")
    assert [one.uri for one in trained.data] == [f"{made.output}/uvrd"]
    assert trained.assets == evaluated.contamination.training == f"{made.output}/assets.lance"
    adapter = f"{trained.output}/adapter"
    assert [one.adapter for one in evaluated.models] == [None, adapter]
    assert indexed.model.adapter == adapter
    assert {evaluated.models[1].model, indexed.model.model} == {trained.model}
    (served,) = serve_files()["kuberay/serve.yaml"]["applications"][0]["args"]["models"]
    assert served["index"] == indexed.output
    outputs = [made.output, trained.output, evaluated.output, evaluated.cache, evaluated.root, indexed.output]
    assert all(str(one).startswith(f"{SHARED}/") for one in [*outputs, made.input, indexed.input])


def node_types(name: str) -> list[dict[str, Any]]:
    """Of a cluster file, resources and most nodes of each kind of worker, as Ray's autoscaler reads them."""
    if name == "ray-cluster.yaml":
        types = with_defaults(document(name))["available_node_types"]
        return [{**one["resources"], "most": one["max_workers"]} for one in types.values()]
    from ray.autoscaler._private.kuberay import autoscaling_config

    found = next(one for file, one in ray_objects() if f"kuberay/{file}" == name)
    cluster = {"metadata": found["metadata"], "spec": ray_cluster(found["spec"])}
    read = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    return [{**one["resources"], "most": one["max_workers"]} for one in read.values()]


def nodes(name: str) -> list[dict[str, float]]:
    """Every worker node of a cluster file that has grown to its full size."""
    return [
        {kind: amount for kind, amount in one.items() if kind != "most"}
        for one in node_types(name)
        for _ in range(one["most"])
    ]


def needs_of(job: str, config: Any) -> Needs:
    if job == "train":  # all ranks, not only those it may start with
        config = replace(config, resources=replace(config.resources, min_workers=None))
    needs: Needs = JOBS[job].needs_of(config)
    return needs


def on(pool: Workers, there: list[dict[str, float]]) -> Workers:
    """The pool without its demand for memory where the nodes do not tell theirs: AWS's types are asked at run time."""
    if any("memory" in node for node in there):
        return pool
    return replace(pool, demands={kind: amount for kind, amount in pool.demands.items() if kind != "memory"})


CLUSTERS = ["ray-cluster.yaml", "kuberay/ray-cluster.yaml"]


@pytest.mark.parametrize("job", ["synthesize", "train", "evaluate", "index"])
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_jobs_fit_on_the_clusters(job: str, cluster: str) -> None:
    """Ray waits for ever for what no node type has."""
    there = nodes(cluster)
    needs = needs_of(job, kuberay_job(job))
    assert needs.workers
    for pool in needs.workers:
        assert pool.wait_for_nodes  # for the cluster begins with none
        check_fit([on(pool, there)], there)
        with pytest.raises(PreflightError):
            check_fit([on(replace(pool, demands={**pool.demands, "GPU": 100.0}), there)], there)


def test_service_fits_on_its_cluster() -> None:
    args = serve_files()["kuberay/serve.yaml"]["applications"][0]["args"]
    config = config_of(ServeConfig, args)
    least = [
        {kind: float(amount) for kind, amount in one.items() if kind != "most"}
        for one in node_types("kuberay/serve.yaml")
        if one["most"]
    ]
    needs = JOBS["serve"].needs_of(config)
    check_fit(needs.workers, least)  # on the one node of each kind that is always there
    grown = [replace(pool, count=8) for pool in needs.workers]
    check_fit(grown, nodes("kuberay/serve.yaml"))


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_decoding_needs_no_gpu_node(cluster: str) -> None:
    """The nodes without GPUs hold all of it."""
    plain = [node for node in nodes(cluster) if not node.get("GPU")]
    (media,) = [
        pool
        for pool in needs_of("synthesize", kuberay_job("synthesize")).workers
        if pool.option == "resources.media"
    ]
    check_fit([on(media, plain)], plain)
