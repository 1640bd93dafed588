"""The notes at the top of a report (what to know before comparing scores) and its run facts."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gve_ray.evaluation.config import EvaluationJobConfig
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.data.uvrb import UVRB, DatasetSpec

TOLERANCE = 0.05  # relative to a published size: some videos are no longer on the web
_SHOWN_HITS = 8  # contaminated videos named on the page; results.json has them all


@dataclass(frozen=True, kw_only=True)
class Note:
    """A remark at the top of the page. lines: its details."""

    kind: Literal["warn", "good", "plain"]
    text: str
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """What was left out, missing or cut when one model was evaluated on one data set.

    faults: invalid lines of the data set, which are left out for all models. queries, corpus: items
    that the model could not read or embed, which count as misses, like the queries without positives:
    those of which the model can read no positive. cut: texts.
    """

    dataset: str
    model: str
    faults: int
    queries: int
    corpus: int
    queries_without_positives: int
    cut: int


def departures(results: Mapping[str, Any], sets: Mapping[str, RetrievalSet]) -> dict[str, str]:
    """Describe how the run's data sets differ from UVRB's published ones, where they do.

    Compares the numbers of queries and of ranked items (to within `TOLERANCE`), metric and prompt.
    """
    by_dataset = {}
    for name, facts in results["datasets"].items():
        if name in UVRB and (difference := _departure(UVRB[name], facts, sets[name])):
            by_dataset[name] = difference
    return by_dataset


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
    """Notes on comparability, contamination, and what was left out, missing or cut."""
    return [
        *_comparability(results, away, has_baselines=has_baselines),
        _contamination(results.get("contamination")),
        _missing(results),
    ]


def _comparability(results: Mapping[str, Any], away: Mapping[str, str], *, has_baselines: bool) -> list[Note]:
    own = [name for name in results["datasets"] if name in UVRB]
    if away:
        share = "All" if len(away) == len(own) else f"{len(away)} of the"
        text = (
            f"{share} {len(own)} data sets have UVRB's names but differ from the published ones, so the "
            "scores of this run cannot be compared with published scores"
        )
        text += "; compare only the shape of the published baselines below." if has_baselines else "."
        return [
            Note(kind="warn", text=text, lines=[f"{name}: {difference}" for name, difference in away.items()])
        ]
    if missing := [name for name in UVRB if name not in own]:
        text = f"{len(own)} of UVRB's {len(UVRB)} data sets: abilities and averages that need the others are left out."
        return [Note(kind="plain", text=text, lines=[f"not in this run: {', '.join(missing)}"])]
    return [
        Note(kind="good", text="All of UVRB's data sets, with their published sizes, metrics and prompts.")
    ]


def _contamination(check: Mapping[str, Any] | None) -> Note:
    if check is None:
        text = "Contamination was not checked: contamination.training names no training videos."
        return Note(kind="plain", text=text)
    hits, training = check["hits"], ", ".join(check["training"])
    if not hits:
        return Note(
            kind="good",
            text=f"None of the {check['checked_videos']:,} evaluation videos was found in {training} by path, bytes or "
            "near-equal frames. (Excerpts of training videos would not be found.)",
        )
    counts = ", ".join(f"{name} {count}" for name, count in check["datasets"].items() if count)
    lines = [
        f"{hit['dataset']}: {hit['video']} is training video {hit['training_video']} of {hit['training']} "
        f"({hit['how']})"
        for hit in hits[:_SHOWN_HITS]
    ]
    if len(hits) > _SHOWN_HITS:
        lines.append(f"and {len(hits) - _SHOWN_HITS:,} more, all in results.json")
    text = f"Contaminated: {len(hits):,} hits among {check['checked_videos']:,} videos match {training} ({counts}). "
    return Note(kind="warn", text=text + "Scores on these data sets are not zero-shot.", lines=lines)


def _missing(results: Mapping[str, Any]) -> Note:
    rows = skipped_rows(results)
    if not rows:
        return Note(kind="good", text="Nothing was left out or missing, and no text was cut.")
    faults = sum({row.dataset: row.faults for row in rows}.values())
    counts: Counter[str] = Counter()
    for row in rows:
        counts["queries"] += row.queries
        counts["orphans"] += row.queries_without_positives
        counts["corpus"] += row.corpus
        counts["cut"] += row.cut
    text = (
        f"Left out for all models: {faults:,} errors in the data sets. Counted as misses, over all models: "
        f"{counts['queries']:,} queries that could not be read, and {counts['orphans']:,} whose positives, among "
        f"{counts['corpus']:,} corpus items, could not be read. {counts['cut']:,} texts were cut. See below."
    )
    return Note(kind="warn", text=text)


def skipped_rows(results: Mapping[str, Any]) -> list[Skipped]:
    """One row per data set and model, without those where nothing was left out, missing or cut."""
    rows = []
    for dataset in results["datasets"]:
        for model, model_results in results["models"].items():
            facts = model_results["datasets"][dataset]
            row = Skipped(
                dataset=dataset,
                model=model,
                faults=len(results["datasets"][dataset]["faults"]),
                **facts["missing"],
                cut=sum(facts["cut"].values()),
            )
            if any((row.faults, row.queries, row.corpus, row.queries_without_positives, row.cut)):
                rows.append(row)
    return rows


def run_facts(config: EvaluationJobConfig, name: str, results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One model's identity, pinned to a revision, its settings, and the time embedding took."""
    (model,) = (candidate for candidate in config.models if candidate.name == name)
    identity, embedding = results["identity"], results["embedding"]
    adapter = f"{model.adapter} ({revision(identity['adapter'])})" if model.adapter else None
    rate = f"{embedding['new'] / embedding['seconds']:.1f} items per second" if embedding["seconds"] else ""
    shown = {
        "model": f"{model.model} ({revision(identity['model'])})",
        "adapter": adapter,
        "engine": " ".join(filter(None, [identity["engine"], identity["dtype"]])),
        "settings": ", ".join(f"{key} {value}" for key, value in identity["settings"].items()),
        "engine arguments": ", ".join(f"{key} {value}" for key, value in identity["engine_args"].items()),
        "embedded": f"{embedding['new']:,} items by this run ({rate}), {embedding['found']:,} already cached",
    }
    return [(key, str(value)) for key, value in shown.items() if value]


def revision(pinned: str) -> str:
    """Shorten `sha256:<64 digits>` and `<id>@<40 digits>` to 12; endpoints have no revision."""
    head, mark, tail = pinned.rpartition("@") if "@" in pinned else pinned.rpartition(":")
    if not mark:
        return "as the endpoint names it"
    return f"revision {tail[:12]}" if mark == "@" else f"{head} {tail[:12]}"
