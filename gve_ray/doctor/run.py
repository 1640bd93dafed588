"""Ask every node of the connected cluster, and say what was found: for `gve doctor`, and before a job begins."""

import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from gve_ray.doctor import probe
from gve_ray.doctor.finding import SECURITY, Facts
from gve_ray.doctor.needs import Needs, Read, check_workers
from gve_ray.doctor.nodes import Cluster, ask, look
from gve_ray.doctor.on_cluster import cluster_findings, port_of
from gve_ray.doctor.on_job import job_findings, nodes_for
from gve_ray.doctor.probe import DRIVER, Mark, Outcome, Probe, examine
from gve_ray.doctor.report import Report
from gve_ray.job import PreflightError

log = logging.getLogger(__name__)

SECONDS = 60.0  # for a node to answer; 2 s on an idle one


def doctor(needs: Needs | None, *, seconds: float = SECONDS) -> Report:
    """What the connected cluster has and, of a job, what it lacks. seconds: for each node to answer.

    Leaves nothing behind where the job writes. Raises nothing: whatever goes wrong is a finding.
    """
    cluster = look()
    facts = gather(cluster, needs, seconds)
    found = cluster_findings(facts) + ([] if needs is None else job_findings(facts, needs))
    return Report(address=cluster.address, job=needs.job if needs else None, findings=found)


def check_cluster(needs: Needs, nodes: Sequence[Mapping[str, Any]], *, seconds: float = SECONDS) -> None:
    """Before a job begins: its workers fit, and every node sees the same storage, models and versions.

    nodes: one mapping of resources a live node of the connected cluster. Of one node alone nothing is asked: the
    job's own checks have seen all that there is. Raises PreflightError. A node that gives no answer is told in
    the log alone, for what it does is repeated elsewhere when it dies; so are doors without a lock.
    """
    check_workers(needs, nodes)
    if len(nodes) < 2:
        return
    cluster = look()
    facts = gather(cluster, needs, seconds)
    silent = {node.name for node in cluster.nodes if isinstance(facts.answers.get(node.id), str)}
    faults = []
    for one in [*cluster_findings(facts), *job_findings(facts, needs)]:
        if (
            one.state == "missing"
            and one.section != SECURITY
            and one.name.removeprefix("node ") not in silent
        ):
            faults.append(one.sentence)
        elif one.state != "ok":
            log.warning("%s", one.sentence)
    log.info("cluster: %d nodes asked, %d without an answer", len(cluster.nodes), len(silent))
    if faults:
        told = f"the cluster is not ready; `gve doctor {needs.job}` with the same arguments says all of it:"
        raise PreflightError("\n".join([told, *faults]))


def gather(cluster: Cluster, needs: Needs | None, seconds: float) -> Facts:
    """Ask the driver, then all nodes, then the driver for what the nodes wrote."""
    mine = _ask_driver(needs, secrets.token_hex(8), seconds)
    written = {name: mine[f"write {name}"] for name in (needs.writes if needs else ())}
    marks: dict[str, Mark] = {name: one.value for name, one in written.items() if not one.problem}
    try:
        answers = ask(
            {node.id: _probes(cluster, node.id, needs, mine, marks) for node in cluster.nodes}, seconds
        )
        unseen = _unseen(marks, answers, seconds)
    finally:
        _remove(marks, [DRIVER, *(node.id for node in cluster.nodes)], seconds)
    return Facts(
        cluster=cluster,
        answers=answers,
        driver=mine,
        unseen=unseen,
        auth=os.environ.get("RAY_AUTH_MODE", ""),
    )


def _ask_driver(needs: Needs | None, token: str, seconds: float) -> dict[str, Outcome]:
    probes: dict[str, Probe] = {"facts": probe.node_facts}
    if needs is not None:
        probes["check"] = partial(_silently, needs)
        probes |= {f"read {read.option}": partial(_samples, read) for read in needs.reads}
        probes |= {f"write {option}": partial(_mark, uri, token) for option, uri in needs.writes.items()}
    return examine(probes, seconds)


def _silently(needs: Needs) -> None:
    """The job's own check; what it gives is for the job."""
    needs.check()


def _samples(read: Read) -> dict[str, int]:
    return probe.readable(read.some_files())


def _mark(uri: str, token: str) -> Mark:
    mark = Mark.at(uri, token)
    mark.write(DRIVER)
    return mark


def _probes(
    cluster: Cluster,
    node_id: str,
    needs: Needs | None,
    mine: Mapping[str, Outcome],
    marks: Mapping[str, Mark],
) -> dict[str, Probe]:
    """What one node is asked."""
    (node,) = (node for node in cluster.nodes if node.id == node_id)
    probes: dict[str, Probe] = {"facts": probe.node_facts}
    if node.is_head:
        ports = [port_of(address) for address in (cluster.address, cluster.dashboard) if address]
        probes["listening"] = partial(probe.listening, ports)
    if needs is None:
        return probes
    if node.resources.get("GPU") and any(pool.demands.get("GPU") for pool in needs.workers):
        probes["gpu"] = probe.gpu_facts
    for read in needs.reads:
        if not (found := mine[f"read {read.option}"]).problem:
            probes[f"read {read.option}"] = partial(probe.sizes, list(found.value))
    for option, mark in marks.items():
        probes[f"write {option}"] = partial(mark.answer, node_id)
    for pool in needs.workers:
        if node in nodes_for(pool, cluster.nodes):
            for one in pool.loads:
                probes[f"model {one.option}"] = partial(
                    probe.model_identity, one.option, one.name, one.revision, one.file
                )
    return probes


def _unseen(
    marks: Mapping[str, Mark], answers: Mapping[str, Mapping[str, Outcome] | str], seconds: float
) -> dict[str, list[str]]:
    """By option, the nodes that wrote what the driver does not see."""
    wrote = {
        (option, node): mark
        for option, mark in marks.items()
        for node, found in answers.items()
        if isinstance(found, Mapping) and found[f"write {option}"].value
    }
    seen = examine(
        {f"{option} {node}": partial(mark.sees, node) for (option, node), mark in wrote.items()}, seconds
    )
    unseen: dict[str, list[str]] = {}
    for option, node in wrote:
        if not seen[f"{option} {node}"].value:
            unseen.setdefault(option, []).append(node)
    return unseen


def _remove(marks: Mapping[str, Mark], who: Sequence[str], seconds: float) -> None:
    """Delete all probe files, the driver's first: a node that comes late writes nothing without it."""

    def clear(mark: Mark) -> None:
        for one in who:
            mark.remove(one)

    examine({option: partial(clear, mark) for option, mark in marks.items()}, seconds)
