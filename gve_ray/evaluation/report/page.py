"""Writes the report of a run: a page, its charts as PNG and its figures as JSON.

`collect` reads the run's output and its data sets; `render` is a pure function.

output/report.html           one self-contained file, for desktop and phone, in light and dark
output/report.json           what the page adds to results.json: chance, ranks, correlations, example queries
output/radar.png             abilities of the models and their baselines
output/correlations-*.png    over models: by family, and of data sets with abilities
output/results.csv           the scores as a table that `gve diagnose` reads
"""

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from gve_ray import report
from gve_ray.evaluation.config import EvaluationJobConfig
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.data.uvrb import MEASURED, UVRB
from gve_ray.evaluation.paper.result_tables import ResultRow, published_table
from gve_ray.evaluation.report import charts
from gve_ray.evaluation.report.correlations import Correlations, correlations
from gve_ray.evaluation.report.example_queries import Example, choose, examples
from gve_ray.evaluation.report.notes import Note, Skipped, departures, notes, run_facts, skipped_rows
from gve_ray.evaluation.report.score_tables import (
    NAMES,
    AbilityRow,
    Column,
    Comparison,
    DatasetRow,
    SmallerTable,
    ability_rows,
    as_range,
    dataset_rows,
    paired,
    smaller_table,
)
from gve_ray.evaluation.scores.abilities import ABILITIES
from gve_ray.evaluation.scores.statistics import CORRELATION_RESAMPLES
from gve_ray.job import PreflightError
from gve_ray.store.runfolder import filesystem, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT_FILE = "report.html"
FIGURES_FILE = "report.json"
RESULTS_TABLE = "results.csv"


@dataclass(frozen=True, kw_only=True)
class AbilityExamples:
    """The example queries of one ability."""

    name: str
    meaning: str
    examples: Sequence[Example]


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything the template shows. subject: the model whose rank breakdown and queries are shown."""

    title: str
    subject: str
    headline: Sequence[tuple[str, str, str]]  # name, value, interval or remark
    notes: Sequence[Note]
    columns: Sequence[Column]  # of the score tables
    abilities: Sequence[AbilityRow]
    radar: Sequence[charts.Series]  # empty: fewer than three abilities in common
    datasets: Sequence[DatasetRow]
    depth: int
    comparisons: Sequence[Comparison]
    smaller: SmallerTable | None
    correlations: Correlations
    queries: Sequence[AbilityExamples]
    skipped: Sequence[Skipped]
    skipped_lines: Sequence[str]
    models: Sequence[tuple[str, Sequence[tuple[str, str]]]]
    facts: Sequence[tuple[str, str]]


def check_baselines(config: EvaluationJobConfig) -> None:
    """Raises PreflightError for a baseline that is neither in the run nor published."""
    names = {model.name for model in config.models} | {row.model for row in published_table()}
    if unknown := [name for name in config.report.baselines or () if name not in names]:
        raise PreflightError(
            f"report.baselines: {unknown[0]!r} is neither a model of this run nor in the published table; use "
            f"{', '.join(sorted(names))}"
        )


def write_report(
    config: EvaluationJobConfig, output: Path, sets: Sequence[RetrievalSet], facts: Mapping[str, Any]
) -> str:
    """Write all files of the report into the run's folder; returns the page's path.

    output: local copy of the run's folder. sets: the data sets of the run. facts: those of
    run.json.
    """
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    _write(output / RESULTS_TABLE, _csv(results).encode())
    page = collect(config, output, results, sets, facts)
    _write(output / REPORT_FILE, render(page).encode())
    text = json.dumps(figures(page), indent=1, ensure_ascii=False)
    _write(output / FIGURES_FILE, f"{text}\n".encode())
    for name, drawing in _drawings(page).items():
        _write(output / f"{name}.png", report.png(drawing))
    return str(output / REPORT_FILE)


def render(page: Page) -> str:
    """The page as self-contained HTML."""
    drawings = {name: charts.inline_svg(drawing) for name, drawing in _drawings(page).items()}
    return report.render(
        "gve_ray.evaluation.report",
        "report.html.j2",
        **vars(page),
        drawings=drawings,
        colours=charts.COLOURS,
        dark_colours=charts.DARK_COLOURS,
    )


def _drawings(page: Page) -> dict[str, "Figure"]:
    """The radar and the heat maps by the names of their PNG files."""
    maps = {f"correlations-{heat_map.name}": charts.heat_map(heat_map) for heat_map in page.correlations.maps}
    return maps | ({"radar": charts.radar(page.radar)} if page.radar else {})


def figures(page: Page) -> dict[str, Any]:
    """What the page adds to results.json, as plain values without pictures and query texts."""
    return {
        "subject": page.subject,
        "notes": [asdict(entry) for entry in page.notes],
        "departures": {entry.name: entry.departure for entry in page.datasets if entry.departure},
        "chance": {entry.name: entry.chance for entry in page.datasets}
        | {entry.name or entry.meaning: entry.chance for entry in page.abilities},
        "headroom": {
            entry.name: None if entry.places is None else asdict(entry.places) for entry in page.datasets
        },
        "radar": [asdict(entry) for entry in page.radar],
        "correlations": page.correlations.figures,
        "queries": {
            ability.name: [
                {
                    "dataset": entry.dataset,
                    "query_id": entry.query.name,
                    "ranks": dict(entry.ranks),
                    "answers": [
                        {
                            "role": answer.role,
                            "id": answer.item.name,
                            "rank": answer.rank,
                            "score": answer.score,
                        }
                        for answer in entry.answers
                    ],
                }
                for entry in ability.examples
            ]
            for ability in page.queries
        },
    }


def collect(
    config: EvaluationJobConfig,
    output: Path,
    results: Mapping[str, Any],
    sets: Sequence[RetrievalSet],
    facts: Mapping[str, Any],
) -> Page:
    """Collect everything the page shows, from the run's folder and its data sets."""
    models: Mapping[str, Any] = results["models"]
    subject = config.subject
    others = [name for name in models if name != subject]
    # The page shows the queries of the full vectors only.
    rows = [row for row in pq.read_table(output / "per_query.parquet").to_pylist() if row["model"] in models]
    by_name = {entry.name: entry for entry in sets}
    away = departures(results, by_name)
    is_uvrb = not away and not set(UVRB).isdisjoint(results["datasets"])
    baselines = _baselines(config, models, subject)
    radar = _radar(config, models, subject, baselines)
    colours = {entry.name: number for number, entry in enumerate(radar)}
    columns = [Column(name=name, colour=colours.get(name)) for name in models]
    columns += [Column(name=row.model, published=True, colour=colours.get(_label(row))) for row in baselines]
    datasets = dataset_rows(results, rows, by_name, subject, away, baselines)
    pooled = is_uvrb if config.report.pooled is None else config.report.pooled
    own = [_row_name(name) for name in models]
    return Page(
        title=f"{subject} compared with {', '.join(others)}" if others else subject,
        subject=subject,
        headline=_headline(models, results),
        notes=notes(results, away, has_baselines=bool(baselines)),
        columns=columns,
        abilities=ability_rows(models, baselines, {entry.name: entry.chance for entry in datasets}),
        radar=radar,
        datasets=datasets,
        depth=config.depth,
        comparisons=paired(results["comparisons"]),
        smaller=smaller_table(results),
        correlations=correlations(
            output / RESULTS_TABLE, own, pooled=pooled, resamples=min(config.resamples, CORRELATION_RESAMPLES)
        ),
        queries=_queries(config, output, rows, by_name, subject),
        skipped=skipped_rows(results),
        skipped_lines=_first_lines(output / "skipped.jsonl"),
        models=[(name, run_facts(config, name, entry)) for name, entry in models.items()],
        facts=_facts(config, facts),
    )


def _baselines(config: EvaluationJobConfig, models: Mapping[str, Any], subject: str) -> list[ResultRow]:
    """The published rows among the baselines; another model of the run takes precedence."""
    published = {row.model: row for row in published_table()}
    others = set(models) - {subject}
    return [published[name] for name in config.report.baselines or () if name not in others]


def _radar(
    config: EvaluationJobConfig, models: Mapping[str, Any], subject: str, baselines: Sequence[ResultRow]
) -> list[charts.Series]:
    chosen = config.report.baselines
    others = [name for name in models if name != subject and (chosen is None or name in chosen)]
    series = [
        charts.Series(name=name, values=_in_order(models[name]["abilities"])) for name in (subject, *others)
    ]
    series += [
        charts.Series(name=_label(row), values=_in_order(row.summary.abilities), published=True)
        for row in baselines
    ]
    return series if len(charts.axes_of(series)) >= 3 else []


def _label(row: ResultRow) -> str:
    return f"{row.model}, published"


def _in_order(abilities: Mapping[str, float]) -> dict[str, float]:
    return {name: abilities[name] for name in ABILITIES if name in abilities}


def _headline(models: Mapping[str, Any], results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    headline = []
    for name, model in models.items():
        value, interval = model["average_abilities"], model["average_abilities_interval"]
        if value is not None:
            headline.append((f"{name}, average over abilities", f"{value:.3f}", as_range(interval)))
    sets = results["datasets"].values()
    queries = sum(facts["n_queries"] for facts in sets)
    return [*headline, ("data sets", str(len(sets)), ""), ("queries", f"{queries:,}", "")]


def _queries(
    config: EvaluationJobConfig,
    output: Path,
    rows: Sequence[Mapping[str, Any]],
    sets: Mapping[str, RetrievalSet],
    subject: str,
) -> list[AbilityExamples]:
    """Example queries by measured ability, then those of data sets outside UVRB."""
    by_ability: dict[str, list[Mapping[str, Any]]] = {ability: [] for ability in (*MEASURED, "")}
    for row in rows:
        if row["model"] == subject:
            by_ability[UVRB[row["dataset"]].ability if row["dataset"] in UVRB else ""].append(row)
    chosen = {
        ability: [*best, *worst]
        for ability, own_rows in by_ability.items()
        for best, worst in [choose(own_rows, config.report.queries)]
    }
    shown = iter(
        examples(
            [row for selected in chosen.values() for row in selected],
            rows,
            sets,
            output / "runs" / subject,
            frames=config.report.frames,
        )
    )
    return [
        AbilityExamples(
            name=ability,
            meaning=NAMES.get(ability, "data sets outside UVRB"),
            examples=list(itertools.islice(shown, len(selected))),
        )
        for ability, selected in chosen.items()
        if selected
    ]


def _first_lines(path: Path, n: int = 12) -> list[str]:
    """The first lines of skipped.jsonl, in words; a data error's words have its location."""
    with path.open(encoding="utf-8") as file:
        entries = [json.loads(line) for line in itertools.islice(file, n)]
    return [
        f"{entry['model']}: {entry['dataset']}: {entry['where']}: {entry['what']}"
        if entry["model"]
        else entry["what"]
        for entry in entries
    ]


def _facts(config: EvaluationJobConfig, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = {
        "frames": f"{config.frames} per video, uniform",
        "pixels": f"{config.min_pixels:,} to {config.max_pixels:,} per frame",
        "tokens": f"at most {config.max_tokens:,} per item",
        "neighbours kept": f"{config.depth:,}",
        "intervals": f"95 %, {config.resamples:,} resamples of the clusters of queries, seed {config.seed}",
        "data": ", ".join(filter(None, [config.root, *(dataset.folder for dataset in config.data)])),
        "output": config.output,
        "config": facts.get("config_hash"),
        "git revision": facts.get("git"),
        "started": _when(facts["runs"][0]["started"]) if facts.get("runs") else None,
        "runs": len(facts.get("runs", ())),
        "versions": ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items()),
    }
    return [(name, str(value)) for name, value in shown.items() if value is not None]


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _csv(results: Mapping[str, Any]) -> str:
    """Scores on UVRB's data sets by their own metrics, for `result_tables.read_table`.

    Models with the same weights and other adapters are of one lineage, like those with the name of a
    published model and that model.
    """
    facts = results["datasets"]
    names = [name for name, spec in UVRB.items() if name in facts and facts[name]["metric"] == spec.metric]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    published = {row.model: row.lineage for row in published_table()}
    writer.writerow(["model", "lineage", *names])
    for model, model_results in results["models"].items():
        scores = (model_results["datasets"][name]["score"] for name in names)
        cells = ("" if score is None else f"{score:.6f}" for score in scores)
        lineage = published.get(model) or model_results["identity"]["model"]
        writer.writerow([_row_name(model), lineage, *cells])
    return out.getvalue()


def _row_name(model: str) -> str:
    """A model's name for a table; it must differ from the names of published models."""
    return f"{model} (this run)" if any(model == row.model for row in published_table()) else model


def _write(path: Path, data: bytes) -> None:
    files, where = filesystem(str(path))
    write_atomically(files, where, data)
