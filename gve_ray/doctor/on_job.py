"""Gathered facts -> findings on a job: room for its workers, what it reads, writes and loads. Pure."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gve_ray.doctor.finding import Facts, Finding, by_value, judged, names, split, told_groups, told_of
from gve_ray.doctor.needs import Needs, Weights, Workers, check_pool, check_together, demands_together
from gve_ray.doctor.nodes import Cluster, Node
from gve_ray.job import ACCELERATOR, PreflightError, room, told_amounts


def job_findings(facts: Facts, needs: Needs) -> list[Finding]:
    """What the job needs. What its own check says of an option is told in that option's line."""
    found = [*_workers(facts, needs), *_reads(facts, needs), *_writes(facts, needs), *_models(facts, needs)]
    said = facts.driver["check"].problem
    if not said:
        return found
    about = next((one for one in found if _is_about(said, one.name)), None)
    problem, fix = split(said)
    if about is None:
        own = Finding(
            section=needs.job, name="config", state="missing", value=problem, problem=problem, fix=fix
        )
        return [own, *found]
    value = about.value if about.state == "missing" else problem
    told = Finding(section=needs.job, name=about.name, state="missing", value=value, problem=problem, fix=fix)
    return [told if one is about else one for one in found]


def _is_about(message: str, option: str) -> bool:
    return re.match(rf"{re.escape(option)}\b(?!\.)", message) is not None


def _workers(facts: Facts, needs: Needs) -> Iterator[Finding]:
    nodes = facts.cluster.resources
    for pool in needs.workers:
        value = (
            f"{pool.count} x ({told_amounts(pool.demands)}), room for {room(pool.demands, nodes, pool.count)}"
        )
        problem = _said(check_pool, pool, nodes)
        if problem and pool.wait_for_nodes:
            value += ", waits for the autoscaler"
            fix = "see that the autoscaler's maxima allow them; without one the job waits for ever"
            yield Finding(section=needs.job, name=pool.option, state="warning", value=value,
                          problem=split(problem)[0], fix=fix)  # fmt: skip
        else:
            yield judged(needs.job, pool.option, value, problem)
    if needs.together:
        value = f"{told_amounts(demands_together(needs))} at the same time"
        yield judged(needs.job, "together", value, _said(check_together, needs, nodes))
    yield from _held(facts.cluster, needs)


def _held(cluster: Cluster, needs: Needs) -> Iterator[Finding]:
    """A warning where others hold what a pool needs: the job waits for them."""
    wanted: dict[str, float] = demands_together(needs) if needs.together else {}
    if not needs.together:
        for pool in needs.workers:
            for kind, amount in pool.demands.items():
                wanted[kind] = max(wanted.get(kind, 0.0), pool.count * amount)
    total = {kind: sum(node.get(kind, 0.0) for node in cluster.resources) for kind in wanted}
    short = {
        kind: amount
        for kind, amount in wanted.items()
        if cluster.free.get(kind, 0.0) + 1e-6 < amount <= total[kind] and not kind.startswith(ACCELERATOR)
    }
    if short:
        value = (
            f"{told_amounts({kind: cluster.free.get(kind, 0.0) for kind in short})} free of "
            + told_amounts({kind: total[kind] for kind in short})
        )
        yield Finding(
            section=needs.job,
            name="free",
            state="warning",
            value=value,
            problem=f"others hold what the job needs ({told_amounts(short)}): {value}",
            fix="it waits until they end; see `ray status` for who they are",
        )


def _reads(facts: Facts, needs: Needs) -> Iterator[Finding]:
    for read in needs.reads:
        probe = f"read {read.option}"
        mine = facts.driver[probe]
        if mine.problem:
            own = _is_about(mine.problem, read.option)
            message = mine.problem if own else f"{read.option}={read.uri!r}: cannot be read: {mine.problem}"
            fix = "name what is there, or let this machine read it"
            yield judged(needs.job, read.option, read.uri, message, fix)
            continue
        sizes: Mapping[str, int] = mine.value
        bad: dict[str, str] = {}
        for node, outcome in facts.of(probe):
            if outcome.problem:
                bad[node.name] = outcome.problem
            elif other := [uri for uri, size in sizes.items() if outcome.value[uri] != size]:
                bad[node.name] = (
                    f"{other[0]} has {outcome.value[other[0]]} bytes there, not {sizes[other[0]]}"
                )
        asked = len(facts.of(probe))
        value = f"{read.uri}: read on {told_of(asked - len(bad), len(facts.cluster.nodes))}"
        yield _on_nodes(needs.job, read.option, read.uri, value, "cannot be read", bad)


def _writes(facts: Facts, needs: Needs) -> Iterator[Finding]:
    for option, uri in needs.writes.items():
        probe = f"write {option}"
        mine = facts.driver[probe]
        if mine.problem:
            fix = "let the user that runs the job write there, or name another place"
            yield judged(needs.job, option, uri, f"{option}={uri!r}: {mine.problem}", fix)
            continue
        bad: dict[str, str] = {}
        for node, outcome in facts.of(probe):
            if outcome.problem:
                bad[node.name] = outcome.problem
            elif not outcome.value:
                bad[node.name] = "what the driver wrote is not there"
            elif node.id in facts.unseen.get(option, ()):
                bad[node.name] = "the driver does not see what was written there"
        asked = len(facts.of(probe))
        value = f"{uri}: written and seen on {told_of(asked - len(bad), len(facts.cluster.nodes))}"
        yield _on_nodes(needs.job, option, uri, value, "not one storage for all nodes", bad)


def _on_nodes(section: str, option: str, uri: str, value: str, what: str, bad: Mapping[str, str]) -> Finding:
    if not bad:
        return Finding(section=section, name=option, state="ok", value=value)
    reasons = by_value(bad)
    told = "; ".join(f"{names(who)}: {reason}" for reason, who in reasons.items())
    return Finding(
        section=section,
        name=option,
        state="missing",
        value=f"{value}, not on {names(list(bad))}",
        problem=f"{option}={uri!r}: {what} ({told})",
        fix="give every node the same credentials and endpoint for it"
        if "://" in uri
        else "mount it at the same absolute path on every node (NFS, a volume of the pods), or name a place that "
        "all of them see",
    )


def nodes_for(pool: Workers, nodes: Sequence[Node]) -> list[Node]:
    """Where a pool's workers may run; all nodes if none has room."""
    able = [node for node in nodes if room(pool.demands, [node.resources], 1)]
    return able or list(nodes)


def _models(facts: Facts, needs: Needs) -> Iterator[Finding]:
    for pool in needs.workers:
        where = len(nodes_for(pool, facts.cluster.nodes))
        for weights in pool.loads:
            yield _model(facts, needs.job, weights, where)


def _model(facts: Facts, section: str, weights: Weights, where: int) -> Finding:
    """where: on how many nodes it is needed."""
    asked = facts.of(f"model {weights.option}")
    bad = by_value({node.name: outcome.problem for node, outcome in asked if outcome.problem})
    found = by_value({node.name: outcome.value for node, outcome in asked if not outcome.problem})
    value = f"{weights.name}: on {told_of(sum(map(len, found.values())), where)} that may load it"
    if bad:
        # The commonest reason: the rest is told once this is mended.
        reason, who = next(iter(bad.items()))
        problem, fix = split(reason)
        return Finding(
            section=section,
            name=weights.option,
            state="missing",
            value=f"{value}, not on {names([name for some in bad.values() for name in some])}",
            problem=f"{problem} (on {names(who)})",
            fix=fix or "copy it to the same path on every node, or name a URI or hub id",
        )
    if len(found) > 1:
        told = told_groups(found)
        return Finding(
            section=section,
            name=weights.option,
            state="missing",
            value=f"{weights.name}: {told}",
            problem=f"{weights.option}={weights.name!r}: not the same model everywhere ({told})",
            fix="copy one of them to all nodes, or pin its revision",
        )
    identity = next(iter(found), "no answer")
    return Finding(section=section, name=weights.option, state="ok", value=f"{value} ({identity})")


def _said(check: Callable[..., object], *args: Any, **options: Any) -> str:
    """What a check says, or nothing."""
    try:
        check(*args, **options)
    except PreflightError as error:
        return str(error)
    return ""
