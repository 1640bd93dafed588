"""Puts the results of several evaluation runs side by side, best model first.

    board = leaderboard(["runs/gve-3b", "runs/clip"], baselines=True)
    print(board); board.write("leaderboard.html")

Runs may have other data sets, but a data set must be the same in all of them: `revision` in results.json
identifies its items, prompt, relevance and metric. The intervals are those of the runs; two models
of one run are compared more precisely by the paired differences in the run's own report.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from gve_ray import report
from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.paper.result_tables import ResultRow, published_table
from gve_ray.evaluation.report.notes import revision
from gve_ray.evaluation.report.page import FIGURES_FILE
from gve_ray.evaluation.report.score_tables import AVERAGES, NAMES, Score, as_range
from gve_ray.evaluation.run import EvaluationResult, read_result
from gve_ray.evaluation.scores.abilities import ABILITIES
from gve_ray.store import SharedFolder
from gve_ray.store.runfolder import filesystem, write_atomically

PUBLISHED = "published"  # as the run of the paper's models
FORMATS = (".html", ".csv", ".json")


@dataclass(frozen=True, kw_only=True)
class Place:
    """One model of one run.

    scores, intervals: by column; a column without a score or interval is left out. weights: identity
    of the weights, "" for published models. contaminated: hits of the contamination check; None: there
    was no check.
    """

    model: str
    run: str
    scores: Mapping[str, float]
    intervals: Mapping[str, Sequence[float]]
    weights: str = ""
    contaminated: int | None = None

    def shown(self, column: str) -> Score | None:
        """A cell of the page; None if there is no score."""
        if column not in self.scores:
            return None
        return Score(value=self.scores[column], interval=as_range(self.intervals.get(column)))


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """All models. columns: averages, abilities, data sets. places: the best one first."""

    columns: Sequence[str]
    places: Sequence[Place]

    def write(self, path: str) -> None:
        """Write the file, as HTML, CSV or JSON by its suffix. Raises ValueError for another suffix."""
        check_format(path)
        makers = {".html": self.to_html, ".csv": self.to_csv, ".json": self.to_json}
        files, where = filesystem(path)
        write_atomically(files, where, makers[PurePosixPath(path).suffix]().encode())

    def to_html(self) -> str:
        """A self-contained page."""
        return report.render(
            "gve_ray.evaluation.report",
            "leaderboard.html.j2",
            title="Leaderboard",
            columns=self.columns,
            meanings=AVERAGES | NAMES,
            places=self.places,
            has_published=any(place.run == PUBLISHED for place in self.places),
        )

    def to_csv(self) -> str:
        """One row per model and run, with the columns NAME, NAME_low and NAME_high of each score."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        heads = [f"{name}{end}" for name in self.columns for end in ("", "_low", "_high")]
        writer.writerow(["model", "run", *heads])
        for place in self.places:
            cells: list[str] = []
            for name in self.columns:
                numbers = [place.scores.get(name), *place.intervals.get(name, (None, None))]
                cells += ["" if number is None else f"{number:.6f}" for number in numbers]
            writer.writerow([place.model, place.run, *cells])
        return out.getvalue()

    def to_json(self) -> str:
        """All of it as plain values."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def __str__(self) -> str:
        """The averages, or the scores of the data sets if there are none, as a table."""
        columns = [name for name in self.columns if name in AVERAGES] or self.columns
        names = [f"{place.model} ({place.run})" for place in self.places]
        width = max(map(len, names)) + 2
        lines = [f"{'':<{width}}" + "".join(f"{name:>20}" for name in columns)]
        for name, place in zip(names, self.places, strict=True):
            values = (place.scores.get(column) for column in columns)
            cells = ("-" if value is None else f"{value:.3f}" for value in values)
            lines.append(f"{name:<{width}}" + "".join(f"{cell:>20}" for cell in cells))
        return "\n".join(lines)


def check_format(path: str) -> None:
    """Raise ValueError unless the suffix of a file is that of a format."""
    if PurePosixPath(path).suffix not in FORMATS:
        raise ValueError(f"{path!r}: unknown format; use a name that ends in {', '.join(FORMATS)}")


def leaderboard(runs: Sequence[str], *, baselines: bool = False) -> Leaderboard:
    """Rank the models of finished runs by their average over abilities.

    Models without this average follow, by their mean over the data sets that all models have. runs:
    output folders. baselines: add the paper's models. Raises ValueError if a data set is not the same
    in two runs, or for baselines if a run's data sets are not of UVRB's sizes, and RunFolderError or
    OSError for a folder that is not a finished run.
    """
    results = {run: read_result(run) for run in dict.fromkeys(runs)}
    check_same_data({run: result.results for run, result in results.items()})
    names = _names_of(list(results))
    places = [place for run, result in results.items() for place in _places(names[run], result)]
    if baselines:
        for run in results:
            _check_sizes(run, results[run].results)
        places += [_published(row) for row in published_table()]
    datasets = dict.fromkeys(name for result in results.values() for name in result.results["datasets"])
    candidates = (*AVERAGES, *ABILITIES, *datasets)
    columns = [name for name in candidates if any(name in place.scores for place in places)]
    common = [name for name in datasets if all(name in place.scores for place in places)]

    def quality(place: Place) -> tuple[float, float]:
        return place.scores.get("average_abilities", -1.0), sum(place.scores[name] for name in common)

    return Leaderboard(columns=columns, places=sorted(places, key=quality, reverse=True))


def check_same_data(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError with all data sets whose revision is not the same in all runs.

    results: results.json by run.
    """
    first: dict[str, tuple[str, str]] = {}  # run and revision by data set
    differences = []
    for run, result in results.items():
        for name, facts in result["datasets"].items():
            other, expected = first.setdefault(name, (run, facts["revision"]))
            if facts["revision"] != expected:
                differences.append(
                    f"{name}: revision {facts['revision'][:12]} in {run}, {expected[:12]} in {other}"
                )
    if differences:
        raise ValueError(
            "the runs have other versions of a data set (items, prompt, relevance or metric), so their scores "
            "cannot be compared; evaluate the models on the same data\n" + "\n".join(differences)
        )


def _check_sizes(run: str, results: Mapping[str, Any]) -> None:
    """Raise ValueError unless a run's data sets are UVRB's, with their published sizes."""
    folder = SharedFolder(run)
    away = json.loads(folder.fetch(FIGURES_FILE).read_text(encoding="utf-8"))["departures"]
    if away or set(UVRB).isdisjoint(results["datasets"]):
        lines = [f"{name}: {difference}" for name, difference in away.items()] or ["no data set of UVRB"]
        raise ValueError(
            f"--baselines: the paper's scores cannot stand beside those of {run}, whose data sets differ "
            "from the published ones; leave out --baselines\n" + "\n".join(lines)
        )


def _names_of(runs: Sequence[str]) -> dict[str, str]:
    """The names of the folders, or the whole paths where two have the same name."""
    short = {run: SharedFolder(run).name for run in runs}
    return {run: run if list(short.values()).count(name) > 1 else name for run, name in short.items()}


def _places(run: str, result: EvaluationResult) -> list[Place]:
    check = result.results.get("contamination")
    places = []
    for model, entry in result.results["models"].items():
        cells = {name: (facts["score"], facts["interval"]) for name, facts in entry["datasets"].items()}
        cells |= {
            name: (score, entry["ability_intervals"].get(name)) for name, score in entry["abilities"].items()
        }
        cells |= {name: (entry[name], entry[f"{name}_interval"]) for name in AVERAGES}
        places.append(
            Place(
                model=model,
                run=run,
                scores={name: score for name, (score, _) in cells.items() if score is not None},
                intervals={name: interval for name, (_, interval) in cells.items() if interval is not None},
                weights=_weights(entry["identity"]),
                contaminated=None if check is None else len(check["hits"]),
            )
        )
    return places


def _weights(identity: Mapping[str, Any]) -> str:
    parts = [revision(identity["model"])]
    if identity["adapter"]:
        parts.append(f"adapter {revision(identity['adapter'])}")
    return ", ".join(parts)


def _published(row: ResultRow) -> Place:
    summary = row.summary
    averages = {name: getattr(summary, name) for name in AVERAGES}
    scores = {**row.scores, **summary.abilities, **averages}
    return Place(
        model=row.model,
        run=PUBLISHED,
        scores={name: score for name, score in scores.items() if score is not None},
        intervals={},
    )
