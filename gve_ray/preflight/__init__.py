"""Check before any work that a job fits on the cluster, and that everything it needs is available."""

from gve_ray.preflight.capacity import capacity_findings, local_nodes
from gve_ray.preflight.doctor import SECONDS, check_cluster, doctor
from gve_ray.preflight.fit import (
    VLLM_CACHE_BYTES,
    Workers,
    check_fit,
    check_pools,
    fit_to_cluster,
    live_nodes,
    model_workers,
    size_pools,
    spare_nodes,
    workers_of,
)
from gve_ray.preflight.models import Embedder, Weights, weights_of
from gve_ray.preflight.needs import (
    Input,
    Needs,
    absolute,
    check_models,
    check_path,
    check_paths,
    check_request,
)
from gve_ray.preflight.nodes import check_address
from gve_ray.preflight.report import Report

__all__ = [
    "SECONDS",
    "VLLM_CACHE_BYTES",
    "Embedder",
    "Input",
    "Needs",
    "Report",
    "Weights",
    "Workers",
    "absolute",
    "capacity_findings",
    "check_address",
    "check_cluster",
    "check_fit",
    "check_models",
    "check_path",
    "check_paths",
    "check_pools",
    "check_request",
    "doctor",
    "fit_to_cluster",
    "live_nodes",
    "local_nodes",
    "model_workers",
    "size_pools",
    "spare_nodes",
    "weights_of",
    "workers_of",
]
