"""One line of what the doctor says, and the gathered facts that it is said of."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from gve_ray.doctor.nodes import Answers, Cluster, Node
from gve_ray.doctor.probe import Outcome

State = Literal["ok", "warning", "missing"]

CLUSTER, VERSIONS, SECURITY = "cluster", "versions", "security"
_NAMED = 3  # nodes named in a line; more are counted


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line. value: what was found. problem: in a sentence, and fix: what to do; empty where all is well."""

    section: str
    name: str
    state: State
    value: str
    problem: str = ""
    fix: str = ""

    @property
    def sentence(self) -> str:
        """The problem and its fix."""
        return f"{self.problem}; {self.fix}" if self.fix else self.problem

    def to_dict(self) -> dict[str, str]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that was asked. answers: by node's id, of its probes by name, or why there are none. driver: of the
    driver's own probes, by the same names. unseen: by option, nodes whose file the driver does not see.
    auth: how the driver authenticates."""

    cluster: Cluster
    answers: Mapping[str, Answers | str]
    driver: Answers = field(default_factory=dict)
    unseen: Mapping[str, Sequence[str]] = field(default_factory=dict)
    auth: str = ""

    def of(self, probe: str) -> list[tuple[Node, Outcome]]:
        """What each node that was asked, and answers at all, says to one probe."""
        return [
            (node, found[probe])
            for node in self.cluster.nodes
            if isinstance(found := self.answers.get(node.id), Mapping) and probe in found
        ]


def split(message: str) -> tuple[str, str]:
    """(problem, fix) of an error in the house's form, `thing=value: problem; fix`."""
    problem, mark, fix = message.rpartition("; ")
    return (problem, fix) if mark else (message, "")


def names(who: Sequence[str]) -> str:
    """`a, b and 3 more`."""
    if len(who) <= _NAMED:
        return ", ".join(who)
    return f"{', '.join(who[:_NAMED])} and {len(who) - _NAMED} more"


def told_of(some: int, nodes: int) -> str:
    return f"{some} of {nodes} nodes" if nodes != 1 else f"{some} of 1 node"


def judged(section: str, name: str, value: str, message: str, fix: str = "") -> Finding:
    """Missing if there is a message, as `split` takes it; fix: where the message has none."""
    if not message:
        return Finding(section=section, name=name, state="ok", value=value)
    problem, own = split(message)
    return Finding(section=section, name=name, state="missing", value=value, problem=problem, fix=own or fix)


def by_value(values: Mapping[str, str]) -> dict[str, list[str]]:
    """Names by value, the commonest value first."""
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    return dict(sorted(groups.items(), key=lambda one: (-len(one[1]), one[0])))


def told_groups(groups: Mapping[str, Sequence[str]]) -> str:
    """`2.0 (a, b), 1.9 (c)`, of what `by_value` gives."""
    return ", ".join(f"{value} ({names(who)})" for value, who in groups.items())
