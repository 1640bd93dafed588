"""Check a job's needs on every node of the connected cluster, before the job and for `gve doctor`."""

import ipaddress
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from gve_ray.config import ACCELERATOR, GIB
from gve_ray.job import PreflightError
from gve_ray.preflight.checks import Check, checks_of, nodes_for, on_nodes
from gve_ray.preflight.fit import check_pools, format_resources, misfit, room, size_pools, spare_nodes
from gve_ray.preflight.needs import Needs, check_request
from gve_ray.preflight.nodes import (
    Answers,
    Cluster,
    Node,
    Outcome,
    Probe,
    auth_mode,
    gpu_facts,
    installed_versions,
    listening_addresses,
    read_cluster,
    run_on_nodes,
    run_probes,
    shared_memory,
)
from gve_ray.preflight.report import Finding, Report, State, format_groups, group_by_value, judge

log = logging.getLogger(__name__)

SECONDS = 60.0  # for each node to answer; an idle one takes 2 s
# A difference in one of these changes results or ends the job; in other packages it is a warning.
MUST_AGREE = {"python": "Python", "ray": "Ray"} | {
    name: name for name in ("torch", "transformers", "vllm", "gve_ray", "source")
}
_KINDS = ("CPU", "GPU", "memory", "object_store_memory")
_ON_ALL: dict[str, Probe] = {"versions": installed_versions, "auth": auth_mode, "shm": shared_memory}

NodeAnswers = Mapping[str, Answers | str]  # by node id; a text is the reason why a node gave no answer


def doctor(needs: Needs | None, *, seconds: float = SECONDS) -> Report:
    """Report what the connected cluster has and what a job lacks there.

    seconds: for each node to answer. Leaves no file in the job's folders. Every problem is a finding;
    none is raised.
    """
    cluster = read_cluster()
    if needs:
        nodes = [node.resources for node in cluster.nodes]
        needs = replace(
            needs, workers=size_pools(needs.workers, nodes, spare_nodes(), together=needs.together)
        )
    checks = checks_of(needs) if needs else {}
    driver, answers = _ask(cluster, needs, checks, seconds)
    findings = [
        *_nodes(cluster, answers),
        *_versions(cluster, driver, answers),
        _token(cluster, driver, answers),
        _dashboard(cluster, answers),
    ]
    if needs:
        findings += _job(cluster, needs, checks, driver, answers)
    return Report(address=cluster.address, job=needs.job if needs else None, findings=findings)


def check_cluster(needs: Needs, nodes: Sequence[Mapping[str, float]], *, seconds: float = SECONDS) -> None:
    """Check, before a job begins, that its workers fit and all nodes share storage, models and versions.

    nodes: the resources of each live node. A single node is not asked: `check_request` has already
    seen all that it sees. A missing token is only logged, and so is a node that does not answer,
    since its work is repeated elsewhere if it dies. Raises PreflightError.
    """
    check_pools(needs.workers, nodes, together=needs.together)
    if len(nodes) < 2:
        return
    problems = []
    for finding in doctor(needs, seconds=seconds).findings:
        is_fatal = not finding.name.startswith("node ") and finding.section != "security"
        if finding.state == "missing" and is_fatal:
            problems.append(finding.sentence)
        elif finding.state != "ok":
            log.warning("%s", finding.sentence)
    log.info("cluster: %d nodes checked", len(nodes))
    if problems:
        head = f"the cluster is not ready; `gve doctor {needs.job}` with the same arguments shows all checks:"
        raise PreflightError("\n".join([head, *problems]))


def _ask(
    cluster: Cluster, needs: Needs | None, checks: Mapping[str, Check], seconds: float
) -> tuple[Answers, NodeAnswers]:
    """Ask the driver, then all nodes, then let the checks finish on the driver.

    Returns the outcomes on the driver, by check, and those on the nodes, by node id and check.
    """
    to_driver = _ON_ALL | {option: check.ask_driver for option, check in checks.items()}
    if needs:
        to_driver["request"] = partial(check_request, needs)
    driver = run_probes(to_driver, seconds)
    remaining = {option: check for option, check in checks.items() if not driver[option].problem}
    uses_gpus = needs is not None and any(pool.demands.get("GPU") for pool in needs.workers)
    to_nodes = {node.id: dict(_ON_ALL) for node in cluster.nodes}
    for node in cluster.nodes:
        if uses_gpus and node.resources.get("GPU"):
            to_nodes[node.id]["GPU"] = gpu_facts
        if node.is_head and cluster.dashboard:
            port = int(cluster.dashboard.rpartition(":")[2])
            to_nodes[node.id]["dashboard"] = partial(listening_addresses, port)
    for option, check in remaining.items():
        for node in nodes_for(check, cluster.nodes):
            to_nodes[node.id][option] = partial(check.ask_node, driver[option].value, node.id)
    answers: dict[str, Answers | str] = dict.fromkeys(to_nodes, "interrupted")
    try:
        answers |= run_on_nodes(to_nodes, seconds)
    finally:
        # Nodes without an answer are included: they may have written files.
        endings = {
            option: partial(check.finish, driver[option].value, list(to_nodes))
            for option, check in remaining.items()
        }
        finished = run_probes(endings, seconds)
    for node_id, answer in answers.items():
        if not isinstance(answer, str):
            answers[node_id] = {
                name: _last(outcome, finished.get(name, Outcome(value={})), node_id)
                for name, outcome in answer.items()
            }
    return driver, answers


def _last(outcome: Outcome, finished: Outcome, node_id: str) -> Outcome:
    """Return a node's outcome, or the problem that the driver found with it afterwards."""
    problem = finished.problem or finished.value.get(node_id, "")
    return Outcome(problem=problem) if problem and not outcome.problem else outcome


def _outcomes(cluster: Cluster, answers: NodeAnswers, check: str) -> dict[str, Outcome]:
    """Return the outcomes of one check by the node's name, for nodes that answered."""
    return {
        node.name: answer[check]
        for node in cluster.nodes
        if not isinstance(answer := answers[node.id], str) and check in answer
    }


# ---- the cluster


def _nodes(cluster: Cluster, answers: NodeAnswers) -> Iterator[Finding]:
    total = {kind: sum(node.resources.get(kind, 0.0) for node in cluster.nodes) for kind in _KINDS}
    left = f"; {cluster.dead} have left" if cluster.dead else ""
    yield judge("cluster", "nodes", f"{len(cluster.nodes)} alive: {format_resources(total)}{left}", "")
    gpus = _outcomes(cluster, answers, "GPU")
    sizes = _outcomes(cluster, answers, "shm")
    for node in cluster.nodes:
        name, answer = f"node {node.name}", answers[node.id]
        if isinstance(answer, str):
            message = f"{name} ({node.address}) does not answer: {answer}"
            fix = "check its load and its raylet.out, or remove it; this version of gve_ray must be installed there"
            yield judge("cluster", name, f"{node.address}: {answer}", message, fix=fix)
            continue
        has = {kind: node.resources[kind] for kind in _KINDS if kind in node.resources}
        has |= {kind: 1.0 for kind in node.resources if kind.startswith(ACCELERATOR)}
        size, store = sizes.get(node.name, Outcome()).value, node.resources.get("object_store_memory", 0.0)
        message = ""
        if size is not None and size < store:
            message = (
                f"{name}: /dev/shm has {size / GIB:.1f} GiB for an object store of {store / GIB:.1f} GiB, which "
                f"is then on disk and slow; start its container with --shm-size={store / GIB + 0.1:.1f}g "
                "(Kubernetes: an emptyDir of medium Memory at /dev/shm), or lower --object-store-memory"
            )
        yield judge("cluster", name, f"{node.address}: {format_resources(has)}", message, state="warning")
        if node.name in gpus:
            yield _gpus(node, gpus[node.name])


def _gpus(node: Node, outcome: Outcome) -> Finding:
    name, promised, facts = f"GPU on {node.name}", node.resources["GPU"], outcome.value
    if outcome.problem:
        problem, fix = outcome.problem, "check nvidia-smi on that node"
    elif facts["built"] is None:
        problem, fix = "torch is built without CUDA", "install gve-ray[gpu] there instead of gve-ray[cpu]"
    elif facts["count"] < promised:
        reason = f" ({facts['warning']})" if facts["warning"] else ""
        problem = f"torch can use {facts['count']} of {promised:g} GPUs{reason}"
        fix = f"check nvidia-smi on that node: its driver must support CUDA {facts['built']}"
    else:
        value = f"{facts['count']}, CUDA {facts['built']}, driver for CUDA {facts['driver']}"
        return judge("cluster", name, value, "")
    return judge("cluster", name, problem, f"{name}: {problem}; {fix}")


def _versions(cluster: Cluster, driver: Answers, answers: NodeAnswers) -> Iterator[Finding]:
    """Compare all nodes that answered and the driver, whose environment may differ from theirs."""
    on_node = _outcomes(cluster, answers, "versions")
    where = on_nodes(len(on_node), len(cluster.nodes))
    outcomes = {**on_node, "the driver": driver["versions"]}
    installed = {who: outcome.value for who, outcome in outcomes.items() if not outcome.problem}
    packages = {package for versions in installed.values() for package in versions}
    for package in [*MUST_AGREE, *sorted(packages - set(MUST_AGREE))]:
        groups = group_by_value({who: versions.get(package, "none") for who, versions in installed.items()})
        # Builds of one version for CPUs and for GPUs agree: a cluster may have nodes of both kinds.
        agree = len({version.partition("+")[0] for version in groups}) <= 1
        if agree and package not in MUST_AGREE:
            continue
        name = MUST_AGREE.get(package, package)
        value = f"{next(iter(groups))} on {where}" if len(groups) == 1 else format_groups(groups)
        what = "the Python files of gve_ray" if name == "source" else name
        fix = "install the same version on every node, with one image or from setup/cpu.lock"
        if name in ("source", "gve_ray"):
            fix += ", or submit the job with --working-dir, which sends the code along"
        message = "" if agree else f"{what}: not the same everywhere: {value}; {fix}"
        yield judge("versions", name, value, message, state="missing" if package in MUST_AGREE else "warning")


# ---- security


def _auth_modes(
    cluster: Cluster, answers: NodeAnswers, driver: Answers | None = None
) -> dict[str, list[str]]:
    outcomes = {"the driver": driver["auth"]} if driver else {}
    outcomes |= _outcomes(cluster, answers, "auth")
    return group_by_value({who: outcome.value or "not set" for who, outcome in outcomes.items()})


def _token(cluster: Cluster, driver: Answers, answers: NodeAnswers) -> Finding:
    """Check that Ray requires a token; without one, anyone who can reach its ports can run code."""
    modes = _auth_modes(cluster, answers, driver)
    if set(modes) == {"token"}:
        return judge("security", "token", "RAY_AUTH_MODE=token everywhere", "")
    return judge(
        "security",
        "token",
        f"RAY_AUTH_MODE {format_groups(modes)}",
        f"token authentication is off (RAY_AUTH_MODE {format_groups(modes)}): whoever reaches the cluster "
        "can run code on it",
        fix="set RAY_AUTH_MODE=token and one RAY_AUTH_TOKEN (openssl rand -hex 32) for every `ray start` and "
        "for everyone who submits jobs, and start the head with --dashboard-host=127.0.0.1",
        state="warning" if all(_is_loopback(node.address) for node in cluster.nodes) else "missing",
    )


def _dashboard(cluster: Cluster, answers: NodeAnswers) -> Finding:
    """Check that the dashboard, which can run jobs, listens on the loopback only."""
    outcomes = _outcomes(cluster, answers, "dashboard").values()
    hosts = next(
        (outcome.value for outcome in outcomes if outcome.value), [cluster.dashboard.rpartition(":")[0]]
    )
    if not cluster.dashboard or all(map(_is_loopback, hosts)):
        return judge("security", "dashboard", cluster.dashboard or "none", "")
    has_token = set(_auth_modes(cluster, answers)) == {"token"}
    return judge(
        "security",
        "dashboard",
        f"{cluster.dashboard}, listens on {', '.join(hosts)}",
        f"the dashboard listens on {', '.join(hosts)}, beyond the loopback, protected by "
        f"{'the token only' if has_token else 'nothing'}",
        fix="start the head with --dashboard-host=127.0.0.1 and use ssh -L or kubectl port-forward to reach it",
        state="warning" if has_token else "missing",
    )


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.strip("[]")).is_loopback


# ---- the job


def _job(
    cluster: Cluster, needs: Needs, checks: Mapping[str, Check], driver: Answers, answers: NodeAnswers
) -> list[Finding]:
    """Return the findings on a job.

    The error of `check_request` replaces the finding on the option that it names; if there is none,
    it comes first, as a finding on `config`.
    """
    findings = list(_workers(cluster, needs))
    for option, check in checks.items():
        outcomes, n_asked = _outcomes(cluster, answers, option), len(nodes_for(check, cluster.nodes))
        findings.append(check.finding(needs.job, driver[option], outcomes, n_asked))
    message = driver["request"].problem
    if not message:
        return findings
    error = judge(needs.job, "config", message.rpartition("; ")[0] or message, message)
    for i, finding in enumerate(findings):
        if re.match(rf"{re.escape(finding.name)}\b(?!\.)", message):
            value = finding.value if finding.state == "missing" else error.value
            findings[i] = replace(error, name=finding.name, value=value)
            return findings
    return [error, *findings]


def _workers(cluster: Cluster, needs: Needs) -> Iterator[Finding]:
    nodes = [node.resources for node in cluster.nodes]
    for pool in needs.workers:
        value = f"{pool}, room for {room(pool.demands, nodes, pool.count or 1)}"
        message = misfit([pool], nodes)
        if message and pool.wait_for_nodes:
            value += ", waits for the autoscaler"
            message = message.rpartition("; ")[0] + "; make sure that the autoscaler may start enough nodes"
        state: State = "warning" if pool.wait_for_nodes else "missing"
        yield judge(needs.job, pool.option, value, message, state=state)
    if needs.together:
        yield judge(needs.job, "together", "all workers at the same time", misfit(needs.workers, nodes))
    yield from _held(cluster, needs)


def _held(cluster: Cluster, needs: Needs) -> Iterator[Finding]:
    """Warn if other jobs currently hold resources that this one needs and the cluster has."""
    short, free = {}, {}
    for kind in ("CPU", "GPU", "memory"):
        amounts = [(pool.count or 1) * pool.demands.get(kind, 0.0) for pool in needs.workers]
        needed = sum(amounts) if needs.together else max(amounts, default=0.0)
        total = sum(node.resources.get(kind, 0.0) for node in cluster.nodes)
        available = cluster.free.get(kind, 0.0)
        if available + 1e-6 < needed <= total:
            short[kind], free[kind] = needed, available
    if short:
        value = f"{format_resources(free)} free"
        message = f"other jobs hold what this one needs ({format_resources(short)}): {value}"
        fix = "it waits until they end; `ray status` shows what is in use"
        yield judge(needs.job, "free", value, message, fix=fix, state="warning")
