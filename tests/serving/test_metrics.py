"""Merging the metrics pages of several agents; test_service checks the metrics of the replicas."""

from gve_ray.serving.metrics import merged

PAGE = """# HELP ray_gve_requests HTTP requests
# TYPE ray_gve_requests counter
ray_gve_requests_total{{NodeAddress="{node}",route="/v1/search"}} {count}
# HELP ray_node_cpu_count CPUs
# TYPE ray_node_cpu_count gauge
ray_node_cpu_count{{NodeAddress="{node}"}} 2
# HELP ray_serve_queue Requests that wait
# TYPE ray_serve_queue gauge
ray_serve_queue{{NodeAddress="{node}"}} 0
"""


def test_samples_of_all_nodes_share_one_description() -> None:
    page = merged([PAGE.format(node="a", count=1), PAGE.format(node="b", count=2)])
    assert page.splitlines() == [
        "# HELP ray_gve_requests HTTP requests",
        "# TYPE ray_gve_requests counter",
        'ray_gve_requests_total{NodeAddress="a",route="/v1/search"} 1',
        'ray_gve_requests_total{NodeAddress="b",route="/v1/search"} 2',
        "# HELP ray_serve_queue Requests that wait",
        "# TYPE ray_serve_queue gauge",
        'ray_serve_queue{NodeAddress="a"} 0',
        'ray_serve_queue{NodeAddress="b"} 0',
    ]
    assert merged([]) == ""
