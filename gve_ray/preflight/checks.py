"""The checks of a job's inputs, outputs and weights, on the driver and on each node.

A check runs on the driver first, then on every node, and turns the outcomes into a finding. It
reports a problem by raising an error, whose text the finding shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gve_ray.endpoint import Endpoint
from gve_ray.preflight.fit import Workers, format_count, room
from gve_ray.preflight.models import Weights, check_endpoint
from gve_ray.preflight.needs import Input, Needs
from gve_ray.preflight.nodes import Node, Outcome
from gve_ray.preflight.report import Finding, format_groups, group_by_value, join_names, judge
from gve_ray.preflight.storage import DRIVER, ProbeFiles, file_size, readable_sizes


class Check:
    """One check of one option of a job's config."""

    option: str

    def ask_driver(self) -> Any:
        """Return what the nodes need to know. Raises an error if something is wrong on the driver."""

    def ask_node(self, from_driver: Any, node: str) -> Any:
        """Check it on the node of this id. Raises an error if something is wrong there."""

    def finish(self, from_driver: Any, nodes: Sequence[str]) -> dict[str, str]:
        """Clean up on the driver after all nodes have answered, and return the problems by node id."""
        return {}

    def finding(self, job: str, driver: Outcome, nodes: Mapping[str, Outcome], asked: int) -> Finding:
        """Return the result. nodes: the outcomes by the node's name. asked: nodes, with silent ones."""
        raise NotImplementedError


def checks_of(needs: Needs) -> dict[str, Check]:
    """Return the checks of a job by option."""
    checks: list[Check] = [InputCheck(source.option, source) for source in needs.inputs]
    checks += [OutputCheck(option, uri) for option, uri in needs.outputs.items()]
    checks += [
        WeightsCheck(weights.option, weights, pool) for pool in needs.workers for weights in pool.loads
    ]
    checks += [
        EndpointCheck(f"{section}.url", section, endpoint) for section, endpoint in needs.endpoints.items()
    ]
    return {check.option: check for check in checks}


@dataclass(frozen=True)
class InputCheck(Check):
    """Every node reads the same files as the driver."""

    option: str
    source: Input

    def ask_driver(self) -> dict[str, int]:
        return readable_sizes(self.source.sample())

    def ask_node(self, from_driver: Mapping[str, int], node: str) -> None:
        for uri, size in from_driver.items():
            if (size_there := file_size(uri)) != size:
                raise OSError(f"{uri} has {size_there} bytes there, not {size}")

    def finding(self, job: str, driver: Outcome, nodes: Mapping[str, Outcome], asked: int) -> Finding:
        option, uri, message = self.option, self.source.uri, driver.problem
        if message:
            if not message.startswith(f"{option}="):
                message = f"{option}={uri!r}: cannot be read: {message}"
            return judge(job, option, uri, message, fix="name a file or folder that this machine can read")
        return _path_finding(job, option, uri, nodes, asked, "read", "cannot be read")


@dataclass(frozen=True)
class OutputCheck(Check):
    """Every node writes to the same storage as the driver: each sees the file that the other wrote."""

    option: str
    uri: str

    def ask_driver(self) -> ProbeFiles:
        files = ProbeFiles.create(self.uri)
        files.write(DRIVER)
        return files

    def ask_node(self, from_driver: ProbeFiles, node: str) -> None:
        # Nothing is written to another disk, because the driver could not delete the file there.
        if not from_driver.exists(DRIVER):
            raise OSError("the driver's file does not exist")
        from_driver.write(node)

    def finish(self, from_driver: ProbeFiles, nodes: Sequence[str]) -> dict[str, str]:
        # The driver's file goes first: a node that answers late writes nothing without it.
        from_driver.remove(DRIVER)
        unseen = [node for node in nodes if not from_driver.exists(node)]
        for node in nodes:
            from_driver.remove(node)
        return dict.fromkeys(unseen, "the driver does not see the file written there")

    def finding(self, job: str, driver: Outcome, nodes: Mapping[str, Outcome], asked: int) -> Finding:
        if driver.problem:
            message = f"{self.option}={self.uri!r}: {driver.problem}"
            fix = "give the user that runs the job write access, or name another folder"
            return judge(job, self.option, self.uri, message, fix=fix)
        failed = "not shared by all nodes"
        return _path_finding(job, self.option, self.uri, nodes, asked, "written and seen", failed)


def _path_finding(
    job: str, option: str, uri: str, nodes: Mapping[str, Outcome], asked: int, done: str, failed: str
) -> Finding:
    problems = {name: outcome.problem for name, outcome in nodes.items() if outcome.problem}
    value = f"{uri}: {done} on {on_nodes(len(nodes) - len(problems), asked)}"
    if not problems:
        return judge(job, option, value, "")
    reasons = [f"{join_names(names)}: {reason}" for reason, names in group_by_value(problems).items()]
    fix = (
        "give every node the same credentials and endpoint for it"
        if "://" in uri
        else "mount it at the same absolute path on every node (NFS, or a volume of the pods), or name a "
        "folder that all nodes share"
    )
    message = f"{option}={uri!r}: {failed} ({'; '.join(reasons)}); {fix}"
    return judge(job, option, f"{value}, not on {join_names(list(problems))}", message)


@dataclass(frozen=True)
class WeightsCheck(Check):
    """Every node that may run a worker has the weights, and all have the same."""

    option: str
    weights: Weights
    pool: Workers

    def ask_node(self, from_driver: None, node: str) -> str:
        return self.weights.digest()

    def finding(self, job: str, driver: Outcome, nodes: Mapping[str, Outcome], asked: int) -> Finding:
        option, name = self.option, self.weights.name
        problems = {node: outcome.problem for node, outcome in nodes.items() if outcome.problem}
        digests = group_by_value({node: row.value for node, row in nodes.items() if not row.problem})
        value = f"{name}: on {on_nodes(len(nodes) - len(problems), asked)} that may load it"
        if problems:
            # Only the most frequent reason is shown; others appear once it is fixed.
            reason, names = next(iter(group_by_value(problems).items()))
            problem, separator, fix = reason.rpartition("; ")
            fix = fix if separator else "copy it to the same path on every node, or name a URI or hub id"
            message = f"{problem or reason} (on {join_names(names)}); {fix}"
            return judge(job, option, f"{value}, not on {join_names(list(problems))}", message)
        if len(digests) > 1:
            message = f"{option}={name!r}: not the same model everywhere ({format_groups(digests)}); "
            message += "copy one of them to all nodes, or pin its revision"
            return judge(job, option, f"{name}: {format_groups(digests)}", message)
        return judge(job, option, f"{value} ({next(iter(digests), 'no answer')})", "")


@dataclass(frozen=True)
class EndpointCheck(Check):
    """Every node reaches an endpoint, and has the key that it asks for."""

    option: str
    section: str
    endpoint: Endpoint

    def ask_driver(self) -> None:
        check_endpoint(self.section, self.endpoint)

    def ask_node(self, from_driver: None, node: str) -> None:
        check_endpoint(self.section, self.endpoint)

    def finding(self, job: str, driver: Outcome, nodes: Mapping[str, Outcome], asked: int) -> Finding:
        option, url = self.option, self.endpoint.url
        if driver.problem:
            return judge(job, option, url, driver.problem)
        problems = {name: outcome.problem for name, outcome in nodes.items() if outcome.problem}
        value = f"{url}: answers on {on_nodes(len(nodes) - len(problems), asked)}"
        if not problems:
            return judge(job, option, value, "")
        # Only the most frequent reason is shown; others appear once it is fixed.
        reason, names = next(iter(group_by_value(problems).items()))
        problem, _, fix = reason.rpartition("; ")
        message = f"{problem} (on {join_names(names)}); {fix}"
        return judge(job, option, f"{value}, not on {join_names(list(problems))}", message)


def nodes_for(check: Check, nodes: Sequence[Node]) -> Sequence[Node]:
    """Return the nodes to ask: for weights those with room for a worker, if there are any."""
    if not isinstance(check, WeightsCheck):
        return nodes
    return [node for node in nodes if room(check.pool.demands, [node.resources], 1)] or nodes


def on_nodes(some: int, nodes: int) -> str:
    """Return for example `1 of 2 nodes`."""
    return f"{some} of {format_count(nodes, 'node')}"
