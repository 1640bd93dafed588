"""Several models over several data sets: checks, embedding on Ray, exact search, scores, files.

output/results.json               scores, intervals, counts of what was left out and cut, model identities
output/runs/<model>/<set>.trec    rankings
output/per_query.parquet          one row a model, data set and query (ranking.PER_QUERY_SCHEMA)
output/skipped.jsonl              one line for each thing left out, and why
output/report.html                all of it to look at (report.py says what else is written for it)
"""

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gve_ray.doctor import absolute, check_cluster
from gve_ray.embedder.models import identify
from gve_ray.evaluation.config import DataConfig, EvaluationJobConfig
from gve_ray.evaluation.data.eval_sets import Source, find_sources, open_sources
from gve_ray.evaluation.data.labelled_videos import told as told_classes
from gve_ray.evaluation.embed import Embedded, ItemIndex, embed, pending_table
from gve_ray.evaluation.guard import Guard, open_training
from gve_ray.evaluation.preflight import check, needs_of, settings_of
from gve_ray.evaluation.report.page import REPORT_FILE, write_report
from gve_ray.evaluation.scores.scoring import Scored, comparisons, left_out, score, summary
from gve_ray.job import live_nodes
from gve_ray.store import RunFolder, SharedFolder
from gve_ray.store.runfolder import RUN_FILE, filesystem, seconds_of, write_atomically

log = logging.getLogger(__name__)

RESULTS_FILE = "results.json"
PER_QUERY_FILE = "per_query.parquet"
SKIPPED_FILE = "skipped.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What a run found. results: as in results.json. seconds: of all its attempts."""

    output: str
    results: Mapping[str, Any]
    seconds: float
    was_finished: bool = False  # by an earlier run: this one did nothing

    def __str__(self) -> str:
        """Scores by data set and model, which end the run's log."""
        models: Mapping[str, Any] = self.results["models"]
        width = max(22, *(len(name) + 2 for name in models))
        lines = [f"{'data set':<16}{'metric':<14}" + "".join(f"{name:>{width}}" for name in models)]
        for name, facts in self.results["datasets"].items():
            cells = (_cell(one["datasets"][name]["score"], one["datasets"][name]["interval"])
                     for one in models.values())  # fmt: skip
            lines.append(f"{name:<16}{facts['metric']:<14}" + "".join(f"{cell:>{width}}" for cell in cells))
        for average in ("average_datasets", "average_abilities"):
            if any(one[average] is not None for one in models.values()):
                cells = (_cell(one[average], one[f"{average}_interval"]) for one in models.values())
                lines.append(f"{average:<30}" + "".join(f"{cell:>{width}}" for cell in cells))
        lines.append("")
        for name, one in models.items():
            lines += [
                f"{name}: {dataset}: {told_classes(facts['classification'])}"
                for dataset, facts in one["datasets"].items()
                if "classification" in facts
            ]
            told = one["embedding"]
            lines.append(
                f"{name}: {told['items']} distinct items, {told['new']} embedded now, {told['found']} in the "
                f"cache before, {told['left_out']} left out, {told['cut']} texts cut"
            )
        if (found := self.results.get("contamination")) is not None:
            count = len(found["hits"])
            lines.append(
                f"contamination: {count} hits among {found['checked_videos']} videos in {found['training']}"
            )
        lines.append(f"{self.output}/{RESULTS_FILE} and {REPORT_FILE} after {self.seconds:.0f} s")
        if self.was_finished:
            lines.insert(0, f"{self.output}: this run was finished before; nothing was done")
        return "\n".join(lines)


def evaluate(
    config: EvaluationJobConfig, *, connect: Callable[[], object] = lambda: None
) -> EvaluationResult:
    """Run the whole job, or what is left of it; a finished run is left as it is.

    connect: called once the checks that need no cluster have passed, to see that Ray is connected.
    Raises PreflightError or RunFolderError before any work, StageError when embedding failed for good; the
    same call then embeds only what is missing.
    """
    check(config)
    config = dataclasses.replace(config, output=absolute(config.output))
    run = RunFolder(config.output, job=config.job, config=config.identity())
    if run.finished():
        return dataclasses.replace(read_result(config.output), was_finished=True)
    sources = find_sources(config)
    connect()
    check_cluster(needs_of(config), live_nodes())
    with run:
        _run(config, sources, run)
        run.record(finished=True)
    return read_result(config.output)


def _run(config: EvaluationJobConfig, found: Sequence[DataConfig], run: RunFolder) -> None:
    shared = SharedFolder(config.output)
    output = shared.path
    cache = absolute(config.cache) if config.cache else run.path("embeddings")
    index = ItemIndex(cache)
    sources = open_sources(found, index)
    training = open_training(config.contamination)
    guard = Guard(config.contamination, training, sources, index) if training else None
    if guard is not None:
        guard.check_bytes()
    contamination: dict[str, Any] | None = None
    pending = pending_table(
        [item for one in sources for item in (*one.queries, *one.data.corpus)],
        [key for one in sources for key in (*one.query_keys, *one.corpus_keys)],
    )
    scored: dict[str, dict[str, Scored]] = {}
    models: dict[str, Any] = {}
    lost = [
        {"model": "", "dataset": fault.dataset, "where": fault.where, "what": str(fault)}
        for one in sources
        for fault in one.data.skipped
    ]
    for model in config.models:
        facts = identify(model, settings_of(config), on_gpu=config.resources.num_gpus > 0)
        embedded = embed(
            pending,
            model,
            settings_of(config),
            facts,
            cache=cache,
            rejects=run.path("rejects", f"{model.name}.lance"),
            resources=config.resources,
            commit_seconds=config.commit_seconds,
        )
        if guard is not None and contamination is None:
            contamination = guard.check(embedded, cache=cache, workers=max(1, config.resources.actors))
        trec = output / "runs" / model.name
        scored[model.name] = {
            one.data.name: score(one, model.name, embedded, config, trec / f"{one.data.name}.trec")
            for one in sources
        }
        lost += [row for one in sources for row in left_out(one, model.name, embedded)]
        told = _embedding_facts(embedded, pending)
        models[model.name] = summary(scored[model.name], config) | {"identity": facts, "embedding": told}
        run.record(embedding={**run.facts.get("embedding", {}), model.name: told})
    tables = [one.table for found in scored.values() for one in found.values()]
    pq.write_table(pa.concat_tables(tables), output / PER_QUERY_FILE)
    _write(output / SKIPPED_FILE, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lost))
    results = {
        "datasets": {one.data.name: _source_facts(one) for one in sources},
        "models": models,
        "comparisons": comparisons(scored, config),
        "contamination": contamination,
    }
    _write(output / RESULTS_FILE, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    write_report(config, output, [one.data for one in sources], run.facts)
    shared.publish(last=RESULTS_FILE)


def _source_facts(source: Source) -> dict[str, Any]:
    data = source.data
    prompts = {item.instruction for item in source.queries}
    return {
        "metric": source.metric,
        "prompt": prompts.pop() if len(prompts) == 1 else None,
        "n_queries": len(data.queries),
        "n_corpus": len(data.corpus),
        "candidates": data.candidates is not None,
        "faults": [str(fault) for fault in data.skipped],
        "revision": source.revision,
    }


def _embedding_facts(embedded: Embedded, pending: pa.Table) -> dict[str, Any]:
    """Counts over distinct items: items = found + new + left_out. seconds: of this run's embedding."""
    asked = pending.column(embedded.store.key)
    table = embedded.store.table([embedded.store.key, "cut"], "cut")
    return {
        "items": embedded.counts.n_in,
        "found": embedded.n_found,
        "new": embedded.n_new,
        "left_out": embedded.counts.n_rejected,
        "cut": int(pc.sum(pc.is_in(table.column(0), value_set=asked.combine_chunks())).as_py() or 0),
        "seconds": embedded.counts.seconds,
    }


def _write(path: Path, text: str) -> None:
    files, where = filesystem(str(path))
    write_atomically(files, where, text.encode())


def read_result(output: str | os.PathLike[str]) -> EvaluationResult:
    """What the finished run in folder `output` found."""
    folder = SharedFolder(output)
    facts = json.loads(folder.fetch(RUN_FILE).read_text(encoding="utf-8"))
    return EvaluationResult(
        output=folder.uri,
        results=json.loads(folder.fetch(RESULTS_FILE).read_text(encoding="utf-8")),
        seconds=seconds_of(facts),
    )


def _cell(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
