"""What the cluster has, what a job needs, what is missing, and whether every node sees the same."""

from gve_ray.doctor.needs import Needs, Read, Weights, Workers, absolute, check_workers, pool_of, weights_of
from gve_ray.doctor.nodes import check_address
from gve_ray.doctor.report import Report
from gve_ray.doctor.run import SECONDS, check_cluster, doctor

__all__ = [
    "SECONDS",
    "Needs",
    "Read",
    "Report",
    "Weights",
    "Workers",
    "absolute",
    "check_address",
    "check_cluster",
    "check_workers",
    "doctor",
    "pool_of",
    "weights_of",
]
