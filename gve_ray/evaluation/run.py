"""The evaluation job: embeds data sets with several models on Ray, ranks, and scores.

output/results.json               scores, intervals, counts of missing and cut items, model identities
output/runs/<model>/<set>.trec    rankings; with smaller vectors, those of <model>@<form>, too
output/per_query.parquet          one row per model, data set and query (ranking.PER_QUERY_SCHEMA)
output/skipped.jsonl              one line for each invalid line of the data, and for each item that a model cannot
                                  read or embed, which counts as a miss, with the reason
output/report.html                the report (report/page.py lists its other files)
"""

import dataclasses
import itertools
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.backends import identify
from gve_ray.evaluation.config import DataConfig, EvaluationJobConfig
from gve_ray.evaluation.contamination import ContaminationCheck
from gve_ray.evaluation.data.eval_sets import EvalSet, find_eval_sets, open_eval_sets
from gve_ray.evaluation.data.labelled_videos import classification_line
from gve_ray.evaluation.embed import Embedded, ItemEmbedder, ItemIndex, pending_table, read_vectors
from gve_ray.evaluation.needs import needs_of
from gve_ray.evaluation.report.page import REPORT_FILE, write_report
from gve_ray.evaluation.scores.clusters import join_queries, shared_content
from gve_ray.evaluation.scores.intervals import RunIntervals
from gve_ray.evaluation.scores.scoring import Scored, score, unreadable
from gve_ray.evaluation.scores.smaller_vectors import applicable, facts_of
from gve_ray.evaluation.training_videos import open_training
from gve_ray.preflight import absolute, check_cluster, check_request, fit_to_cluster, live_nodes
from gve_ray.store import RunFolder, SharedFolder
from gve_ray.store.runfolder import RUN_FILE, RunFolderError, filesystem, seconds_of, write_atomically

log = logging.getLogger(__name__)

RESULTS_FILE = "results.json"
PER_QUERY_FILE = "per_query.parquet"
SKIPPED_FILE = "skipped.jsonl"
# Of results.json. 2: intervals by clusters of queries, missing items as misses, comparisons of abilities.
RESULTS_VERSION = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """The outcome of a run. results: as in results.json. seconds: total over all its attempts."""

    output: str
    results: Mapping[str, Any]
    seconds: float
    was_finished: bool = False  # by an earlier run; this one did nothing

    def __str__(self) -> str:
        """The table of scores by data set and model that is logged when the job ends."""
        models: Mapping[str, Any] = self.results["models"]
        width = max(22, *(len(name) + 2 for name in models))
        lines = [f"{'data set':<16}{'metric':<14}" + "".join(f"{name:>{width}}" for name in models)]
        for name, facts in self.results["datasets"].items():
            cells = (_cell(model["datasets"][name]["score"], model["datasets"][name]["interval"])
                     for model in models.values())  # fmt: skip
            lines.append(f"{name:<16}{facts['metric']:<14}" + "".join(f"{cell:>{width}}" for cell in cells))
        for average in ("average_datasets", "average_abilities"):
            if any(model[average] is not None for model in models.values()):
                cells = (_cell(model[average], model[f"{average}_interval"]) for model in models.values())
                lines.append(f"{average:<30}" + "".join(f"{cell:>{width}}" for cell in cells))
        lines.append("")
        lines += [_smaller_line(*entry) for entry in self.results.get("smaller_vectors", {}).items()]
        for name, model in models.items():
            lines += [
                f"{name}: {dataset}: {classification_line(facts['classification'])}"
                for dataset, facts in model["datasets"].items()
                if "classification" in facts
            ]
            embedding = model["embedding"]
            lines.append(
                f"{name}: {embedding['items']} distinct items, {embedding['new']} embedded by this run, "
                f"{embedding['found']} already cached, {embedding['missing']} missing, {embedding['cut']} texts cut"
            )
        if (contamination := self.results.get("contamination")) is not None:
            count = len(contamination["hits"])
            lines.append(
                f"contamination: {count} hits among {contamination['checked_videos']} videos in "
                f"{', '.join(contamination['training'])}"
            )
        lines.append(f"{self.output}/{RESULTS_FILE} and {REPORT_FILE} after {self.seconds:.0f} s")
        if self.was_finished:
            lines.insert(0, f"{self.output}: this run was finished before; nothing was done")
        return "\n".join(lines)


def evaluate(
    config: EvaluationJobConfig, *, connect: Callable[[], object] = lambda: None
) -> EvaluationResult:
    """Run the job, or the rest of it if it was interrupted; a finished run is not repeated.

    connect: called after the checks that need no cluster, to connect to Ray. Raises PreflightError
    or RunFolderError before any work, and StageError if embedding failed; calling it again then
    embeds only what is missing.
    """
    check_request(needs_of(config))
    config = dataclasses.replace(config, output=absolute(config.output))
    run = RunFolder(config.output, job=config.job, config=config.identity())
    if run.finished():
        return dataclasses.replace(read_result(config.output), was_finished=True)
    eval_sets = find_eval_sets(config)
    connect()
    config = fit_to_cluster(config, needs_of(config).workers)
    check_cluster(needs_of(config), live_nodes())
    with run:
        _run(config, eval_sets, run)
        run.record(finished=True)
    return read_result(config.output)


def _run(config: EvaluationJobConfig, configs: Sequence[DataConfig], run: RunFolder) -> None:
    shared = SharedFolder(config.output)
    output = shared.path
    cache = absolute(config.cache) if config.cache else run.path("embeddings")
    index = ItemIndex(cache)
    datasets = open_eval_sets(configs, index)
    training = open_training(config.contamination)
    contamination_check = (
        ContaminationCheck(config.contamination, training, datasets, index) if training else None
    )
    if contamination_check is not None:
        contamination_check.check_bytes()
    contamination: dict[str, Any] | None = None
    pending = pending_table(
        [item for dataset in datasets for item in (*dataset.queries, *dataset.data.corpus)],
        [key for dataset in datasets for key in (*dataset.query_keys, *dataset.corpus_keys)],
        [
            dataset.folder_fps
            for dataset in datasets
            for _ in range(len(dataset.queries) + len(dataset.data.corpus))
        ],
    )
    scored: dict[str, dict[str, Scored]] = {}
    identities: dict[str, Any] = {}
    smaller: dict[str, dict[str, Any]] = {}
    skipped = [
        {"model": "", "dataset": error.dataset, "where": error.where, "what": str(error)}
        for dataset in datasets
        for error in dataset.data.skipped
    ]
    settings = EmbedderSettings(**config.sequence_settings)
    for model in config.models:
        facts = identify(model, settings, on_gpu="GPU" in config.resources.demands)
        with ItemEmbedder(
            model,
            settings,
            facts,
            cache=cache,
            rejects=run.path("rejects", f"{model.name}.lance"),
            resources=config.resources,
            commit_seconds=config.commit_seconds,
        ) as embedder:
            embedded = embedder.embed(pending)
        if contamination_check is not None and contamination is None:
            # The actors are idle now, so the decoding processes may use all cores of this machine.
            cores = len(os.sched_getaffinity(0))
            contamination = contamination_check.check(embedded, cache=cache, workers=cores)
        dimension = _dimension_of(embedded, pending)
        forms = {f"{model.name}@{form.label}": form for form in applicable(config.vectors, dimension)}
        if len(forms) < len(config.vectors):
            log.warning("%s: %d dimensions, too few for some of `vectors`", model.name, dimension)
        smaller |= {name: facts_of(model.name, form, dimension) for name, form in forms.items()}
        for name, form in ({model.name: None} | forms).items():
            scored[name] = {
                dataset.data.name: score(
                    dataset, name, embedded, config, output / f"runs/{name}/{dataset.data.name}.trec", form
                )
                for dataset in datasets
            }
        skipped += [row for dataset in datasets for row in unreadable(dataset, model.name, embedded)]
        embedding = _embedding_facts(embedded, pending)
        identities[model.name] = {"identity": facts, "embedding": embedding}
        run.record(embedding={**run.facts.get("embedding", {}), model.name: embedding})
    tables = [result.table for results in scored.values() for result in results.values()]
    pq.write_table(pa.concat_tables(tables), output / PER_QUERY_FILE)
    _write(output / SKIPPED_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in skipped))
    shared_contents = {dataset.data.name: shared_content(dataset, index.digest) for dataset in datasets}
    intervals = RunIntervals(scored, join_queries(shared_contents), config)
    results = {
        "version": RESULTS_VERSION,
        "datasets": {dataset.data.name: _dataset_facts(dataset) for dataset in datasets},
        **_summaries(intervals, config.subject, identities, smaller),
        "contamination": contamination,
    }
    _write(output / RESULTS_FILE, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    write_report(config, output, [dataset.data for dataset in datasets], run.facts)
    shared.publish(last=RESULTS_FILE)


def _summaries(
    intervals: RunIntervals,
    subject: str,
    models: Mapping[str, Mapping[str, Any]],
    smaller: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The parts of results.json that have intervals. models, smaller: other facts, by name."""
    return {
        "clusters": intervals.clusters(),
        "models": {name: {**intervals.summary(name), **facts} for name, facts in models.items()},
        "comparisons": intervals.comparisons(subject, [name for name in models if name != subject]),
        "smaller_vectors": {
            name: {
                **facts,
                **intervals.summary(name),
                "comparisons": intervals.comparisons(name, [facts["model"]]),
            }
            for name, facts in smaller.items()
        },
    }


def _dimension_of(embedded: Embedded, pending: pa.Table) -> int:
    """The number of dimensions of a model's vectors; 0 if it could embed nothing."""
    keys = (key for key in pending.column(embedded.store.key).to_pylist() if key not in embedded.rejects)
    return int(read_vectors(embedded.store, list(itertools.islice(keys, 1)))[0].shape[1])


def _dataset_facts(dataset: EvalSet) -> dict[str, Any]:
    data = dataset.data
    prompts = {item.instruction for item in dataset.queries}
    return {
        "metric": dataset.metric,
        "prompt": prompts.pop() if len(prompts) == 1 else None,
        "n_queries": len(data.queries),
        "n_corpus": len(data.corpus),
        "candidates": data.candidates is not None,
        "folder_fps": dataset.folder_fps,
        "faults": [str(error) for error in data.skipped],
        "revision": dataset.revision,
    }


def _embedding_facts(embedded: Embedded, pending: pa.Table) -> dict[str, Any]:
    """Counts of distinct items (items = found + new + missing), and seconds of embedding."""
    pending_keys = pending.column(embedded.store.key)
    table = embedded.store.table([embedded.store.key, "cut"], "cut")
    return {
        "items": embedded.counts.n_in,
        "found": embedded.n_found,
        "new": embedded.n_new,
        "missing": embedded.counts.n_rejected,
        "cut": int(pc.sum(pc.is_in(table.column(0), value_set=pending_keys.combine_chunks())).as_py() or 0),
        "seconds": embedded.counts.seconds,
    }


def _write(path: Path, text: str) -> None:
    files, where = filesystem(str(path))
    write_atomically(files, where, text.encode())


def read_result(output: str | os.PathLike[str]) -> EvaluationResult:
    """Read the results of the finished run in folder `output`.

    Raises RunFolderError for results of an earlier release, which were computed in another way.
    """
    folder = SharedFolder(output)
    facts = json.loads(folder.fetch(RUN_FILE).read_text(encoding="utf-8"))
    results = json.loads(folder.fetch(RESULTS_FILE).read_text(encoding="utf-8"))
    if (version := results.get("version", 1)) != RESULTS_VERSION:
        raise RunFolderError(
            f"{folder.uri}/{RESULTS_FILE}: has version {version}, this release writes {RESULTS_VERSION}; run "
            "again with another output and the same cache, so that nothing is embedded a second time"
        )
    return EvaluationResult(
        output=folder.uri,
        results=results,
        seconds=seconds_of(facts),
    )


def _smaller_line(name: str, entry: Mapping[str, Any]) -> str:
    """The bytes of smaller vectors, and their differences from the full ones: averages, or else data sets."""
    rows = entry["comparisons"]
    shown = [row for row in rows if row["kind"] == "average"] or [
        row for row in rows if row["kind"] == "dataset"
    ]
    differences = ", ".join(f"{row['name']} {row['difference']:+.3f}" for row in shown)
    return f"{name}: {entry['bytes']:,} bytes per vector; difference from {entry['model']}: {differences}"


def _cell(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
