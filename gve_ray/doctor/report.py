"""Findings for people, one aligned line each and the problems last with their fixes; and for machines."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from gve_ray.doctor.finding import Finding

_SIGNS = {"ok": "ok", "warning": "WARNING", "missing": "MISSING"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the doctor says. address: of the cluster. job: whose needs were looked at; None: of none."""

    address: str
    job: str | None
    findings: Sequence[Finding]

    @property
    def is_enough(self) -> bool:
        """Nothing is missing; warnings are allowed."""
        return all(one.state != "missing" for one in self.findings)

    def to_json(self) -> str:
        """One object: address, job, enough, and the findings in order."""
        facts = {"address": self.address, "job": self.job, "enough": self.is_enough}
        return json.dumps({**facts, "findings": [one.to_dict() for one in self.findings]}, indent=1)

    def __str__(self) -> str:
        """Lines by section, then the problems, then a verdict."""
        sign = max(map(len, _SIGNS.values()))
        wide = max(len(one.name) for one in self.findings)
        lines: list[str] = []
        for section in dict.fromkeys(one.section for one in self.findings):
            lines += [section, *(
                f"  {_SIGNS[one.state]:<{sign}}  {one.name:<{wide}}  {one.value}"
                for one in self.findings
                if one.section == section
            ), ""]  # fmt: skip
        # The worst last: it is what stands above the prompt.
        bad = [one for state in ("warning", "missing") for one in self.findings if one.state == state]
        if bad:
            lines.append("problems")
        for one in bad:
            lines.append(f"  {_SIGNS[one.state]:<{sign}}  {one.problem}")
            lines += [f"  {'':<{sign}}  fix: {one.fix}", ""] if one.fix else [""]
        return "\n".join([*lines, self._verdict()])

    def _verdict(self) -> str:
        counts = {
            state: sum(one.state == state for one in self.findings) for state in ("missing", "warning", "ok")
        }
        warnings = "1 warning" if counts["warning"] == 1 else f"{counts['warning']} warnings"
        told = f"{counts['missing']} missing, {warnings}, {counts['ok']} ok"
        if self.job is None:
            return told
        return f"{self.job}: {'can start' if self.is_enough else 'cannot start'}: {told}"
