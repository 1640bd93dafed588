"""Tests whether workers fit on the nodes of a cluster. Expected numbers are worked out by hand."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from gve_ray.job import PreflightError
from gve_ray.preflight import Workers, check_fit, check_pools


def pool(count: int, *, option: str = "resources", wait: bool | None = False, **demands: float) -> Workers:
    return Workers(option=option, count=count, demands=demands, wait_for_nodes=wait)


def test_the_message_names_the_shortage_and_the_fixes() -> None:
    captioner = pool(4, option="resources.captioner", CPU=2.0, GPU=1.0)
    # The GPU limits the first node to 1 worker, the 4 CPUs limit the second to 2.
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 4.0}]
    with pytest.raises(PreflightError) as error:
        check_fit([captioner], nodes)
    assert str(error.value) == (
        "resources.captioner: needs 4 x (2 CPU, 1 GPU), the cluster has 8 CPU, 5 GPU on 2 nodes, which is room "
        "for 3; add nodes, set --resources.captioner.actors 3, or set --resources.captioner.wait_for_nodes true "
        "on an autoscaling cluster"
    )
    check_fit([replace(captioner, count=3)], nodes)
    with pytest.raises(
        PreflightError, match=r"on 1 node, .*; add nodes, or lower --resources\.captioner\.num_"
    ):
        check_fit([replace(captioner, wait_for_nodes=None)], [{"CPU": 8.0}])


def test_a_worker_is_not_split_over_nodes() -> None:
    with pytest.raises(PreflightError):
        check_fit([pool(1, CPU=3.0)], [{"CPU": 2.0}, {"CPU": 2.0}])
    check_fit([pool(1, CPU=3.0)], [{"CPU": 2.0}, {"CPU": 4.0}])


def test_fractions_of_a_cpu_add_up() -> None:
    # 0.3 / 0.1 is 2.9999999999999996 in floating point, but three workers fit.
    check_fit([pool(3, CPU=0.1)], [{"CPU": 0.3}])
    with pytest.raises(PreflightError, match="room for 3"):
        check_fit([pool(4, CPU=0.1)], [{"CPU": 0.3}])


def test_workers_that_demand_nothing_always_fit() -> None:
    check_fit([pool(100)], [{"CPU": 0.0}])


def test_another_accelerator_type_does_not_fit() -> None:
    demands: Mapping[str, float] = {"GPU": 1.0, "accelerator_type:H100": 0.001}
    h100 = Workers(option="x", count=1, demands=demands)
    check_fit([h100], [{"GPU": 1.0, "accelerator_type:H100": 1.0}])
    with pytest.raises(PreflightError, match=r"needs 1 x \(1 GPU, H100\), the cluster has 1 GPU, no H100"):
        check_fit([h100], [{"GPU": 1.0, "accelerator_type:A100": 1.0}])


def test_the_largest_workers_are_placed_first() -> None:
    # Placed first, the small workers would take a CPU of the only node that can hold the large one.
    nodes = [{"CPU": 3.0}, {"CPU": 2.0}, {"CPU": 1.0}]
    pools = [pool(3, option="small", CPU=1.0), pool(1, option="large", CPU=3.0)]
    check_fit(pools, nodes)
    with pytest.raises(PreflightError, match=r"small: 3 x \(1 CPU\) do not fit .* leave 0 CPU; 2 CPU on"):
        check_fit(pools, nodes[:2])
    assert nodes == [{"CPU": 3.0}, {"CPU": 2.0}, {"CPU": 1.0}]


def test_pools_share_the_nodes_only_if_they_run_together() -> None:
    pools = [pool(1, option=name, GPU=1.0) for name in ("a", "b")]
    check_pools(pools, [{"GPU": 1.0}])
    with pytest.raises(PreflightError, match=r"b: .* do not fit together with the other workers"):
        check_pools(pools, [{"GPU": 1.0}], together=True)


def test_a_pool_that_waits_for_the_autoscaler_is_not_refused() -> None:
    check_pools([pool(1, wait=True, GPU=1.0)], [{"CPU": 2.0}])
