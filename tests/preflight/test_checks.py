"""Tests the findings for given answers of the nodes. Expected values are worked out by hand."""

import json
from dataclasses import replace
from typing import Any

import pytest

from gve_ray.endpoint import Endpoint
from gve_ray.preflight import Needs, Report, Weights, Workers
from gve_ray.preflight.checks import EndpointCheck, InputCheck, OutputCheck, WeightsCheck, nodes_for
from gve_ray.preflight.doctor import _dashboard, _gpus, _job, _nodes, _token, _versions, _workers
from gve_ray.preflight.needs import Input
from gve_ray.preflight.nodes import Answers, Cluster, Node, Outcome
from gve_ray.preflight.report import Finding, group_by_value, join_names, judge

VERSIONS = {
    "python": "3.11.7",
    "ray": "2.60.0",
    "torch": "2.13.0+cpu",
    "transformers": "5.19.0",
    "vllm": "0.32.0",
    "gve_ray": "0.1.0",
    "source": "0badcafe",
    "av": "18.0",
}
OK = Outcome()


def make_node(name: str, **resources: float) -> Node:
    return Node(id=f"id-{name}", name=name, address=f"10.0.0.{len(name)}", resources={"CPU": 4.0} | resources)


def cluster(*nodes: Node) -> Cluster:
    free = {"CPU": 4.0 * len(nodes)}
    return Cluster(address="10.0.0.1:6379", nodes=nodes, dead=0, dashboard="", free=free)


def versions(driver: dict[str, str] | None = None, **changes: dict[str, str]) -> dict[str, Finding]:
    """Return the findings on nodes a, bb and ccc, some of which have other versions."""
    nodes = [make_node("a"), make_node("bb"), make_node("ccc")]
    answers: dict[str, Answers | str] = {
        node.id: {"versions": Outcome(value=VERSIONS | changes.get(node.name, {}))} for node in nodes
    }
    on_driver = {"versions": Outcome(value=VERSIONS | (driver or {}))}
    return {finding.name: finding for finding in _versions(cluster(*nodes), on_driver, answers)}


# ---- the cluster


def test_equal_versions_are_ok() -> None:
    findings = versions()
    assert {finding.state for finding in findings.values()} == {"ok"}
    assert findings["Python"].value == "3.11.7 on 3 of 3 nodes"
    assert "av" not in findings  # other packages are shown only where they differ


@pytest.mark.parametrize(
    "package,name,state",
    [
        ("python", "Python", "missing"),
        ("ray", "Ray", "missing"),
        ("torch", "torch", "missing"),
        ("transformers", "transformers", "missing"),
        ("vllm", "vllm", "missing"),
        ("gve_ray", "gve_ray", "missing"),
        ("source", "source", "missing"),
        ("av", "av", "warning"),
    ],
)
def test_a_different_version_on_a_node(package: str, name: str, state: str) -> None:
    findings = versions(bb={package: "9.9"})
    assert [finding.name for finding in findings.values() if finding.state != "ok"] == [name]
    assert findings[name].state == state
    assert findings[name].value == f"{VERSIONS[package]} (a, ccc, the driver), 9.9 (bb)"
    assert findings[name].fix.startswith("install the same version on every node")


def test_a_different_version_on_the_driver() -> None:
    finding = versions(driver={"ray": "2.59.0"})["Ray"]
    assert (finding.state, finding.value) == ("missing", "2.60.0 (a, bb, ccc), 2.59.0 (the driver)")


def test_builds_of_one_version_for_cpus_and_gpus_agree() -> None:
    assert versions(bb={"torch": "2.13.0"})["torch"].state == "ok"


def test_a_node_without_an_answer() -> None:
    nodes = cluster(make_node("a"), make_node("bb", GPU=2.0, **{"accelerator_type:H100": 1.0}))
    findings = {
        finding.name: finding for finding in _nodes(nodes, {"id-a": "no answer in 60 s", "id-bb": {}})
    }
    assert findings["nodes"].value.startswith("2 alive: 8 CPU, 2 GPU")
    assert findings["node a"].problem == "node a (10.0.0.1) does not answer: no answer in 60 s"
    assert findings["node bb"].value == "10.0.0.2: 4 CPU, 2 GPU, H100"


@pytest.mark.parametrize(
    "facts,state,value",
    [
        (
            {"built": None, "count": 0, "driver": None, "warning": ""},
            "missing",
            "torch is built without CUDA",
        ),
        (
            {"built": "13.0", "count": 0, "driver": "12.2", "warning": "old driver"},
            "missing",
            "torch can use 0 of 2 GPUs (old driver)",
        ),
        (
            {"built": "13.0", "count": 2, "driver": "13.1", "warning": ""},
            "ok",
            "2, CUDA 13.0, driver for CUDA 13.1",
        ),
    ],
)
def test_gpus(facts: dict[str, Any], state: str, value: str) -> None:
    finding = _gpus(make_node("a", GPU=2.0), Outcome(value=facts))
    assert (finding.state, finding.value) == (state, value)
    assert bool(finding.fix) == (state != "ok")


@pytest.mark.parametrize(
    "mode,address,state",
    [
        ("token", "10.0.0.2", "ok"),
        ("", "10.0.0.2", "missing"),
        ("disabled", "10.0.0.2", "missing"),
        ("", "127.0.0.1", "warning"),
    ],
)
def test_a_cluster_without_a_token(mode: str, address: str, state: str) -> None:
    nodes = [replace(make_node(name), address=address) for name in ("a", "bb")]
    answers: dict[str, Answers | str] = {
        "id-a": {"auth": Outcome(value="token")},
        "id-bb": {"auth": Outcome(value=mode)},
    }
    finding = _token(cluster(*nodes), {"auth": Outcome(value="token")}, answers)
    assert finding.state == state
    assert state == "ok" or finding.value == f"RAY_AUTH_MODE token (the driver, a), {mode or 'not set'} (bb)"


@pytest.mark.parametrize(
    "size,state", [(None, "ok"), (4 * 2**30, "ok"), (2**26, "warning")], ids=["unknown", "large", "small"]
)
def test_shared_memory_that_is_too_small_for_the_object_store(size: int | None, state: str) -> None:
    node = make_node("a", object_store_memory=2.0**31)
    _, finding = _nodes(cluster(node), {"id-a": {"shm": Outcome(value=size)}})
    assert finding.state == state
    if state == "warning":
        assert finding.problem.startswith("node a: /dev/shm has 0.1 GiB for an object store of 2.0 GiB")
        assert "--shm-size=2.1g" in finding.fix


@pytest.mark.parametrize(
    "dashboard,listens,mode,state",
    [
        ("", None, "token", "ok"),
        ("127.0.0.1:8265", ["127.0.0.1", "::1"], "", "ok"),
        ("127.0.0.1:8265", ["0.0.0.0"], "token", "warning"),  # Ray shows 0.0.0.0 as the head's address
        ("10.0.0.1:8265", None, "token", "warning"),  # the head did not answer
        ("10.0.0.1:8265", ["10.0.0.1"], "", "missing"),
    ],
)
def test_where_the_dashboard_listens(
    dashboard: str, listens: list[str] | None, mode: str, state: str
) -> None:
    answer = {"auth": Outcome(value=mode)} | ({"dashboard": Outcome(value=listens)} if listens else {})
    nodes = replace(cluster(make_node("a")), dashboard=dashboard)
    finding = _dashboard(nodes, {"id-a": answer})
    assert (finding.name, finding.state) == ("dashboard", state)
    assert state == "ok" or "listens on " + (listens or ["10.0.0.1"])[0] in finding.problem


# ---- the job


def test_inputs_that_a_node_cannot_read() -> None:
    check = InputCheck("input", Input(option="input", uri="/videos"))
    assert check.finding("index", OK, {"a": OK, "bb": OK}, 2).value == "/videos: read on 2 of 2 nodes"
    finding = check.finding("index", OK, {"a": OK, "bb": Outcome(problem="gone")}, 2)
    assert (finding.state, finding.value) == ("missing", "/videos: read on 1 of 2 nodes, not on bb")
    assert finding.problem == "input='/videos': cannot be read (bb: gone)"
    assert "same absolute path" in finding.fix
    finding = check.finding("index", Outcome(problem="no such file or folder"), {}, 2)
    assert finding.problem == "input='/videos': cannot be read: no such file or folder"
    finding = check.finding("index", Outcome(problem="input='/videos': no video in it; add one"), {}, 2)
    assert (finding.problem, finding.fix) == ("input='/videos': no video in it", "add one")


def test_outputs_that_are_not_shared() -> None:
    check = OutputCheck("output", "s3://bucket/run")
    finding = check.finding(
        "index", OK, {"a": OK, "bb": Outcome(problem="the driver's file does not exist")}, 2
    )
    assert finding.value == "s3://bucket/run: written and seen on 1 of 2 nodes, not on bb"
    assert "not shared by all nodes (bb: the driver's file does not exist)" in finding.problem
    assert "same credentials" in finding.fix
    finding = check.finding("index", Outcome(problem="cannot be written: denied"), {}, 2)
    assert finding.problem == "output='s3://bucket/run': cannot be written: denied"


def test_weights_are_needed_where_their_workers_run() -> None:
    pool = Workers(option="resources", count=1, demands={"GPU": 1.0})
    check = WeightsCheck("model", Weights(option="model", name="org/model"), pool)
    nodes = [make_node("a", GPU=1.0), make_node("bb")]
    assert nodes_for(check, nodes) == nodes[:1]
    assert nodes_for(check, nodes[1:]) == nodes[1:]  # no node has room, so all nodes look for the model
    same = Outcome(value="abc")
    assert (
        check.finding("index", OK, {"a": same}, 1).value == "org/model: on 1 of 1 node that may load it (abc)"
    )
    lacking = check.finding(
        "index", OK, {"a": same, "bb": Outcome(problem="model='org/model': not here; copy it")}, 2
    )
    assert lacking.value == "org/model: on 1 of 2 nodes that may load it, not on bb"
    assert (lacking.problem, lacking.fix) == ("model='org/model': not here (on bb)", "copy it")
    other = check.finding("index", OK, {"a": same, "bb": Outcome(value="def")}, 2)
    assert (other.state, other.value) == ("missing", "org/model: abc (a), def (bb)")


def test_an_endpoint_that_a_node_cannot_use() -> None:
    check = EndpointCheck("captioner.url", "captioner", Endpoint("http://a/v1"))
    assert check.finding("s", OK, {"a": OK, "bb": OK}, 2).value == "http://a/v1: answers on 2 of 2 nodes"
    lacking = Outcome(problem="captioner.key_variable='K': asks for a key, and none is set; set it")
    finding = check.finding("s", OK, {"a": OK, "bb": lacking}, 2)
    assert (finding.state, finding.value) == ("missing", "http://a/v1: answers on 1 of 2 nodes, not on bb")
    assert finding.problem == "captioner.key_variable='K': asks for a key, and none is set (on bb)"
    assert finding.fix == "set it"
    finding = check.finding("s", Outcome(problem="captioner.url='x': cannot connect; start it"), {}, 2)
    assert (finding.problem, finding.fix) == ("captioner.url='x': cannot connect", "start it")


def job(message: str) -> list[Finding]:
    """Return the findings on a job with one pool and one input whose check raises this error."""
    pool = Workers(option="resources", count=1, demands={"CPU": 1.0})
    source = Input(option="input", uri="/videos")
    needs = Needs(job="index", workers=[pool], inputs=[source])
    driver = {"input": OK, "request": Outcome(problem=message)}
    checks = {"input": InputCheck("input", source)}
    return _job(cluster(make_node("a")), needs, checks, driver, {"id-a": {"input": OK}})


def test_the_error_of_the_request_replaces_the_finding_on_its_option() -> None:
    pool, source = job("input='/videos': relative; give an absolute path")
    assert (pool.state, source.state, source.fix) == ("ok", "missing", "give an absolute path")
    config, *rest = job("trackers: mlflow is not installed; install it")
    assert (config.name, config.problem) == ("config", "trackers: mlflow is not installed")
    assert [finding.state for finding in rest] == ["ok", "ok"]


def test_a_pool_that_waits_for_the_autoscaler_is_a_warning() -> None:
    pool = Workers(option="x", count=1, demands={"GPU": 1.0}, wait_for_nodes=True)
    (finding,) = _workers(cluster(make_node("a")), Needs(job="index", workers=[pool]))
    assert (finding.state, finding.value) == (
        "warning", "1 x (1 GPU), room for 0, waits for the autoscaler"
    )  # fmt: skip


@pytest.mark.parametrize(
    "count,together,free,expected",
    [
        (2, False, 2.0, ""),  # the two pools run one after the other, and each fits
        (2, True, 2.0, "other jobs hold what this one needs (4 CPU): 2 CPU free"),
        (3, False, 2.0, "other jobs hold what this one needs (3 CPU): 2 CPU free"),
        (9, False, 2.0, ""),  # the cluster never has that many, which is a different finding
    ],
)
def test_resources_that_other_jobs_hold(count: int, together: bool, free: float, expected: str) -> None:
    pools = [Workers(option=name, count=count, demands={"CPU": 1.0}) for name in ("x", "y")]
    nodes = replace(cluster(make_node("a")), free={"CPU": free})
    findings = _workers(nodes, Needs(job="index", workers=pools, together=together))
    held = [finding for finding in findings if finding.name == "free"]
    assert [finding.problem for finding in held] == ([expected] if expected else [])
    assert all(finding.state == "warning" for finding in held)


# ---- the report


def test_a_report_as_text_and_as_json() -> None:
    findings = [
        judge("cluster", "nodes", "2 alive", ""),
        judge("index", "input", "/a", "input='/a': gone; name another"),
        judge("index", "free", "1 CPU", "busy", fix="wait", state="warning"),
    ]
    report = Report(address="10.0.0.1:6379", job="index", findings=findings)
    text = str(report)
    assert text.index("busy") < text.index("input='/a': gone")  # the worst comes last
    assert "fix: name another" in text
    assert text.endswith("index: cannot start: 1 missing, 1 warning, 1 ok")
    values = json.loads(report.to_json())
    assert (values["address"], values["job"], values["enough"]) == ("10.0.0.1:6379", "index", False)
    assert values["findings"][1] == {
        "section": "index",
        "name": "input",
        "state": "missing",
        "value": "/a",
        "problem": "input='/a': gone",
        "fix": "name another",
    }
    assert Report(address="", job=None, findings=[findings[0], findings[2]]).is_enough


def test_names_are_joined_and_grouped() -> None:
    assert join_names(["a", "b", "c"]) == "a, b, c"
    assert join_names(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert group_by_value({"a": "1", "b": "2", "c": "2"}) == {"2": ["b", "c"], "1": ["a"]}
