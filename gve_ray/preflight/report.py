"""The results of all checks, as text for people and as JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "warning", "missing"]

_MARKS = {"ok": "ok", "warning": "WARNING", "missing": "MISSING"}
_NAMES_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check. problem and fix are empty if the state is ok."""

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


def judge(
    section: str, name: str, value: str, message: str, *, fix: str = "", state: State = "missing"
) -> Finding:
    """Return a finding: ok if there is no message, else `state`.

    message: an error of the form `option=value: problem; fix`. fix: used where the message has none.
    """
    if not message:
        return Finding(section=section, name=name, state="ok", value=value)
    problem, separator, own_fix = message.rpartition("; ")
    if not separator:
        problem, own_fix = message, fix
    return Finding(section=section, name=name, state=state, value=value, problem=problem, fix=own_fix)


def join_names(names: Sequence[str]) -> str:
    """Return for example `a, b, c and 3 more`."""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def group_by_value(values: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names that have each value, the most frequent value first."""
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    return dict(sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])))


def format_groups(groups: Mapping[str, Sequence[str]]) -> str:
    """Return for example `2.0 (a, b), 1.9 (c)`."""
    return ", ".join(f"{value} ({join_names(names)})" for value, names in groups.items())


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings on a cluster. job: the job whose needs were checked, or None."""

    address: str
    job: str | None
    findings: Sequence[Finding]

    @property
    def is_enough(self) -> bool:
        """Whether nothing is missing; there may be warnings."""
        return not self._in_state("missing")

    def to_json(self) -> str:
        """Return one object with address, job, enough and the findings."""
        facts = {"address": self.address, "job": self.job, "enough": self.is_enough}
        return json.dumps({**facts, "findings": [asdict(finding) for finding in self.findings]}, indent=1)

    def __str__(self) -> str:
        """Return the findings by section, then the problems with their fixes, then a summary."""
        mark_width = max(map(len, _MARKS.values()))
        name_width = max(len(finding.name) for finding in self.findings)
        lines: list[str] = []
        for section in dict.fromkeys(finding.section for finding in self.findings):
            lines.append(section)
            for finding in self.findings:
                if finding.section == section:
                    mark = f"{_MARKS[finding.state]:<{mark_width}}"
                    lines.append(f"  {mark}  {finding.name:<{name_width}}  {finding.value}")
            lines.append("")
        # The worst problems come last, directly above the user's prompt.
        problems = [*self._in_state("warning"), *self._in_state("missing")]
        lines += ["problems"] if problems else []
        for finding in problems:
            lines.append(f"  {_MARKS[finding.state]:<{mark_width}}  {finding.problem}")
            lines += [f"  {'':<{mark_width}}  fix: {finding.fix}"] if finding.fix else []
            lines.append("")
        return "\n".join([*lines, self._summary()])

    def brief(self) -> str:
        """Return a line for each finding, then the problems with their fixes."""
        width = max(len(finding.name) for finding in self.findings)
        lines = [f"{finding.name:<{width}}  {finding.value}" for finding in self.findings]
        problems = [*self._in_state("warning"), *self._in_state("missing")]
        return "\n".join([*lines, *(f"{_MARKS[problem.state]}: {problem.sentence}" for problem in problems)])

    def _in_state(self, state: State) -> list[Finding]:
        return [finding for finding in self.findings if finding.state == state]

    def _summary(self) -> str:
        missing, warnings, fine = (len(self._in_state(state)) for state in ("missing", "warning", "ok"))
        counts = f"{missing} missing, {warnings} warning{'' if warnings == 1 else 's'}, {fine} ok"
        if self.job is None:
            return counts
        return f"{self.job}: {'can start' if self.is_enough else 'cannot start'}: {counts}"
