"""What a reader has to know before the figures: how far they may be compared, what was left out, what was run."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gve_ray.evaluation.config import EvaluationJobConfig
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.data.uvrb import UVRB, DatasetSpec

TOLERANCE = 0.05  # of a published size: videos vanish from the web, and releases drop a few
_TOLD = 8  # contaminated videos named on the page; results.json has them all


@dataclass(frozen=True, kw_only=True)
class Note:
    """One remark above the figures. lines: its particulars."""

    kind: Literal["warn", "good", "plain"]
    text: str
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """What one model was not asked of one data set, or only in part."""

    dataset: str
    model: str
    faults: int
    queries: int
    corpus: int
    queries_without_positives: int
    cut: int


def departures(results: Mapping[str, Any], sets: Mapping[str, RetrievalSet]) -> dict[str, str]:
    """In what the run's data sets of UVRB differ from the published ones, in words; without those that do not.

    Compared are the numbers of queries and of items ranked (to `TOLERANCE`), metric and prompt.
    """
    found = {}
    for name, facts in results["datasets"].items():
        if name in UVRB and (told := _departure(UVRB[name], facts, sets[name])):
            found[name] = told
    return found


def _departure(spec: DatasetSpec, facts: Mapping[str, Any], data: RetrievalSet) -> str:
    items = facts["n_corpus"]
    if spec.candidates and data.candidates:
        items = round(sum(map(len, data.candidates.values())) / len(data.candidates))
    parts = [
        f"{count:,} {what}, published {expected:,}"
        for what, count, expected in (
            ("queries", facts["n_queries"], spec.n_queries),
            ("candidates" if spec.candidates else "items", items, spec.n_corpus),
        )
        if abs(count - expected) > TOLERANCE * expected
    ]
    if facts["metric"] != spec.metric:
        parts.append(f"{facts['metric']}, published {spec.metric}")
    if (facts["prompt"] or None) != spec.prompt:
        parts.append("another prompt")
    return "; ".join(parts)


def notes(results: Mapping[str, Any], away: Mapping[str, str], *, has_baselines: bool) -> list[Note]:
    """Comparability, contamination, what was left out and cut."""
    return [
        *_comparability(results, away, has_baselines=has_baselines),
        _contamination(results.get("contamination")),
        _left_out(results),
    ]


def _comparability(results: Mapping[str, Any], away: Mapping[str, str], *, has_baselines: bool) -> list[Note]:
    known = [name for name in results["datasets"] if name in UVRB]
    if away:
        some = "All" if len(away) == len(known) else f"{len(away)} of the"
        text = (
            f"{some} {len(known)} data sets bear UVRB's names and are not UVRB's as published, so figures of this run "
            "cannot be compared with published ones"
        )
        text += "; published baselines below are there for their shape alone." if has_baselines else "."
        return [Note(kind="warn", text=text, lines=[f"{name}: {told}" for name, told in away.items()])]
    if missing := [name for name in UVRB if name not in known]:
        text = f"{len(known)} of UVRB's {len(UVRB)} data sets: abilities and averages that need more are left out."
        return [Note(kind="plain", text=text, lines=[f"not in this run: {', '.join(missing)}"])]
    return [Note(kind="good", text="All of UVRB's data sets, at their published sizes, metrics and prompts.")]


def _contamination(found: Mapping[str, Any] | None) -> Note:
    if found is None:
        text = "Contamination was not checked: contamination.training names no training assets."
        return Note(kind="plain", text=text)
    hits, where = found["hits"], found["training"]
    if not hits:
        return Note(
            kind="good",
            text=f"None of the {found['checked_videos']:,} evaluation videos was found in {where}: not by path, not "
            "by bytes, not by near-equal frames. (Cuts out of a training video would not be found.)",
        )
    counts = ", ".join(f"{name} {count}" for name, count in found["datasets"].items() if count)
    lines = [
        f"{one['dataset']}: {one['video']} is training video {one['training_video']} ({one['how']})"
        for one in hits[:_TOLD]
    ]
    if len(hits) > _TOLD:
        lines.append(f"and {len(hits) - _TOLD:,} more, all in results.json")
    text = f"Contaminated: {len(hits):,} finds among {found['checked_videos']:,} videos are in {where} ({counts}). "
    return Note(kind="warn", text=text + "No zero-shot claim holds there.", lines=lines)


def _left_out(results: Mapping[str, Any]) -> Note:
    rows = skipped_rows(results)
    if not rows:
        return Note(kind="good", text="Nothing was left out, and no text was cut.")
    faults = sum({row.dataset: row.faults for row in rows}.values())
    counts: Counter[str] = Counter()
    for row in rows:
        counts["queries"] += row.queries + row.queries_without_positives
        counts["corpus"] += row.corpus
        counts["cut"] += row.cut
    text = (
        f"Left out: {faults:,} faults of the data sets; over all models {counts['queries']:,} queries and "
        f"{counts['corpus']:,} corpus items; {counts['cut']:,} texts cut. See below."
    )
    return Note(kind="warn", text=text)


def skipped_rows(results: Mapping[str, Any]) -> list[Skipped]:
    """By data set and model, without those that were asked everything in full."""
    found = []
    for dataset in results["datasets"]:
        for model, one in results["models"].items():
            told = one["datasets"][dataset]
            row = Skipped(dataset=dataset, model=model, **told["skipped"], cut=sum(told["cut"].values()))
            if any((row.faults, row.queries, row.corpus, row.queries_without_positives, row.cut)):
                found.append(row)
    return found


def run_facts(config: EvaluationJobConfig, name: str, told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One model: what it is, pinned to a revision, and what embedding took."""
    (model,) = (one for one in config.models if one.name == name)
    identity, embedding = told["identity"], told["embedding"]
    adapter = f"{model.adapter} ({revision(identity['adapter'])})" if model.adapter else None
    rate = f"{embedding['new'] / embedding['seconds']:.1f} a second" if embedding["seconds"] else ""
    shown = {
        "model": f"{model.model} ({revision(identity['model'])})",
        "adapter": adapter,
        "engine": " ".join(filter(None, [identity["engine"], identity["dtype"]])),
        "settings": ", ".join(f"{key} {value}" for key, value in identity["settings"].items()),
        "engine arguments": ", ".join(f"{key} {value}" for key, value in identity["engine_args"].items()),
        "embedded": f"{embedding['new']:,} items now ({rate}), {embedding['found']:,} found in the cache",
    }
    return [(key, str(value)) for key, value in shown.items() if value]


def revision(pinned: str) -> str:
    """`sha256:<64 digits>` and `<id>@<40 digits>` in their first 12 digits; an endpoint's word as it is."""
    head, mark, tail = pinned.rpartition("@") if "@" in pinned else pinned.rpartition(":")
    if not mark:
        return "as the endpoint names it"
    return f"revision {tail[:12]}" if mark == "@" else f"{head} {tail[:12]}"
