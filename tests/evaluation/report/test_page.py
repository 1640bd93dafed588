"""The report of a run with real rankings and real videos, and two models of which one is good.

There are ten videos of one grey each. The model `blind` ranks the next video first for every query;
`seeing` ranks the correct one first except for the last two queries. One video of the corpus is
broken, and the text of one query is a script.
"""

import base64
import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gve_ray.demo.render import encode_mp4
from gve_ray.evaluation.config import EvaluationJobConfig, ModelConfig, ReportConfig, SmallerVectors
from gve_ray.evaluation.data.eval_sets import EvalSet
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.embed import EMBEDDING_SCHEMA, KEY, Embedded
from gve_ray.evaluation.paper.diagnosis import diagnose
from gve_ray.evaluation.paper.result_tables import published_table, read_table
from gve_ray.evaluation.report.example_queries import choose
from gve_ray.evaluation.report.notes import notes
from gve_ray.evaluation.report.page import check_baselines, collect, figures, render, write_report
from gve_ray.evaluation.run import _dataset_facts
from gve_ray.evaluation.scores.clusters import join_queries, shared_content
from gve_ray.evaluation.scores.intervals import RunIntervals
from gve_ray.evaluation.scores.ranking import PER_QUERY_SCHEMA
from gve_ray.evaluation.scores.scoring import Scored, score
from gve_ray.evaluation.scores.smaller_vectors import facts_of
from gve_ray.job import PreflightError
from gve_ray.schema import Item
from gve_ray.stage import StageCounts
from gve_ray.store import Store
from tests.report.tags import Tags

N = 10
EVIL = '<script src="https://evil.example/x.js">alert(1)</script>'
LONG = " ".join(f"word{i}" for i in range(700))
SIZE = 56
PNG = b"\x89PNG\r\n\x1a\n"


def colour(i: int) -> np.ndarray:
    """A grey picture, uint8 [SIZE, SIZE, 3]."""
    return np.full((SIZE, SIZE, 3), 20 + 20 * i, np.uint8)


def source(folder: Path, name: str) -> EvalSet:
    """Video i is the positive of query i; queries of MS-TI also have an image and a list of
    candidates.
    """
    ids = [str(i) for i in range(N)]
    texts = [*(f"grey {i}" for i in range(N - 2)), EVIL, LONG]
    has_image = name == "MS-TI"
    data = RetrievalSet(
        name=name,
        query_ids=[f"q{i}" for i in range(N)],
        queries=[
            Item(text=text, image=str(folder / f"still{i}.jpg") if has_image else None)
            for i, text in enumerate(texts)
        ],
        corpus_ids=ids,
        corpus=[Item(video=str(folder / f"{i}.mp4")) for i in ids],
        positives={f"q{i}": frozenset([str(i)]) for i in range(N)},
        candidates={f"q{i}": tuple(ids) for i in range(N)} if has_image else None,
        skipped=[],
    )
    return EvalSet(
        data=data,
        metric=UVRB[name].metric,
        queries=[replace(item, instruction=UVRB[name].prompt) for item in data.queries],
        query_keys=[f"q{i}" for i in range(N)],
        corpus_keys=[f"c{i}" for i in range(N)],
    )


def embedded(folder: Path, name: str, right: int) -> Embedded:
    """Queries below `right` have their video's vector; the others are nearest to the next video and
    farthest from their own.
    """
    axes = np.eye(N, dtype=np.float32)
    rows = [{KEY: f"c{i}", "vector": axes[i], "cut": False} for i in range(N)]
    for i in range(N):
        wrong = 0.8 * axes[(i + 1) % N] - 0.6 * axes[i]
        rows.append({KEY: f"q{i}", "vector": axes[i] if i < right else wrong, "cut": i == N - 1})
    store = Store(str(folder / f"{name}.lance"), EMBEDDING_SCHEMA, key=KEY).create()
    store.append(pa.Table.from_pylist(rows, schema=EMBEDDING_SCHEMA))
    counts = StageCounts(name="embed", n_in=2 * N, n_out=2 * N, n_rejected=0, seconds=2.0)
    return Embedded(store=store, counts=counts, n_found=0, rejects={})


class Run:
    """A run's folder as `evaluate` leaves it before it writes the report."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for i in range(N):
            encode_mp4(folder / f"{i}.mp4", [colour(i)] * 4, fps=4, width=SIZE, height=SIZE)
        (folder / "9.mp4").write_bytes(b"not a video")
        for i in range(N):
            Image.fromarray(colour(i)).save(folder / f"still{i}.jpg")
        self.sources = [source(folder, name) for name in ("MSRVTT", "MS-TI")]
        self.config = self.job()
        (folder / "out").mkdir()
        scored: dict[str, dict[str, Scored]] = {}
        models: dict[str, Any] = {}
        half = SmallerVectors(dimension=N // 2)
        for name, right in (("blind", 0), ("seeing", N - 2)):
            vectors = embedded(folder, name, right)
            for row, form in ((name, None), (f"{name}@{half.label}", half)):
                scored[row] = {
                    dataset.data.name: score(
                        dataset,
                        row,
                        vectors,
                        self.config,
                        folder / f"out/runs/{row}/{dataset.data.name}.trec",
                        form,
                    )
                    for dataset in self.sources
                }
            identity = {
                "engine": "torch",
                "model": f"sha256:{'ab' * 32}",
                "adapter": None,
                "dtype": "float32",
            }
            models[name] = {
                "identity": {**identity, "settings": {"frames": 8}, "engine_args": {}},
                "embedding": {"items": 20, "found": 0, "new": 20, "missing": 0, "cut": 1, "seconds": 2.0},
            }
        shared = {dataset.data.name: shared_content(dataset, lambda path: path) for dataset in self.sources}
        intervals = RunIntervals(scored, join_queries(shared), self.config)
        models = {name: intervals.summary(name) | facts for name, facts in models.items()}
        tables = [dataset.table for results in scored.values() for dataset in results.values()]
        pq.write_table(pa.concat_tables(tables), folder / "out/per_query.parquet")
        (folder / "out/skipped.jsonl").write_text(
            json.dumps({"model": "", "dataset": "MSRVTT", "where": "x", "what": f"MSRVTT: {EVIL}"}) + "\n"
        )
        self.results: dict[str, Any] = {
            "datasets": {dataset.data.name: _dataset_facts(dataset) for dataset in self.sources},
            "clusters": intervals.clusters(),
            "models": models,
            "comparisons": intervals.comparisons(self.config.subject, ["blind"]),
            "smaller_vectors": {
                f"{name}@5": facts_of(name, half, N)
                | intervals.summary(f"{name}@5")
                | {"comparisons": intervals.comparisons(f"{name}@5", [name])}
                for name in models
            },
            "contamination": None,
        }

    def job(self, **report: Any) -> EvaluationJobConfig:
        return EvaluationJobConfig(
            models=(ModelConfig(name="blind", model="m"), ModelConfig(name="seeing", model="m")),
            root=str(self.folder),
            output=str(self.folder / "out"),
            depth=N,
            metrics=("hit@1",),
            resamples=200,
            report=ReportConfig(**report),
        )

    @property
    def sets(self) -> list[RetrievalSet]:
        return [dataset.data for dataset in self.sources]

    def write(self, **report: Any) -> str:
        """Write the report and return the page."""
        (self.folder / "out/results.json").write_text(json.dumps(self.results))
        facts = {"config_hash": "c0ffee", "versions": {"python": "3.11"}, "runs": [{"started": 0.0}]}
        path = write_report(self.job(**report), self.folder / "out", self.sets, facts)
        return Path(path).read_text(encoding="utf-8")

    def file(self, name: str) -> bytes:
        return (self.folder / "out" / name).read_bytes()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    return run.write(queries=2, frames=2)


def words(page: str) -> str:
    """The page's text, with a blank between elements."""
    body = page.split("</style>", 1)[1].replace("<", " <")
    return re.sub(r"\s+", " ", Tags(body).text)


def test_scores_in_the_tables(page: str) -> None:
    text = words(page)
    scores = r"0\.000 0\.000 to 0\.000 0\.800 0\.[45]\d\d to 1\.000 0\.100 10 10 10"
    assert re.search(rf"MSRVTT CG, hit@1 {scores}", text)
    assert re.search(rf"MS-TI CMP, precision@1 {scores}", text)
    difference = r"\+0\.800 \+0\.[45]\d\d to \+1\.000"
    assert re.search(rf"MSRVTT {difference} 0\.01\d 0\.00\d 10 10", text)  # p: 2 / 2^8, over two data sets
    assert "seeing less blind: better on 2, worse on 0, no significant difference on 0" in text
    assert "Abilities of seeing" not in text  # each ability needs more data sets


def test_smaller_vectors_are_below_the_full_ones(page: str) -> None:
    """With 5 of 10 dimensions, `seeing` keeps its first five hits: the difference is -0.300."""
    text = words(page)
    table = text[text.index("Smaller vectors The same") :]
    scores = r"0\.800 0\.\d+ to 1\.000"
    assert re.search(rf"seeing 40 {scores} {scores} seeing@5 20 0\.500 .* 0\.500", table)
    assert re.search(
        r"seeing@5 less seeing: .*? MSRVTT -0\.300 -0\.\d+ to [+-]0\.\d+ 0\.\d+ 0\.\d+ 10 10", table
    )


def test_headroom_is_counted_from_first_ranks(run: Run, page: str) -> None:
    """Eight queries have their video at rank 1, the other two at rank 10 of 10."""
    report = json.loads(run.file("report.json"))
    assert report["headroom"]["MSRVTT"] == {"first": 8, "near": 2, "far": 0, "lost": 0}
    assert report["chance"] == {"MSRVTT": pytest.approx(0.1), "MS-TI": pytest.approx(0.1)}


def test_best_and_worst_queries_have_the_top_and_the_expected_result(run: Run, page: str) -> None:
    queries = json.loads(run.file("report.json"))["queries"]
    assert list(queries) == ["CG", "CMP"]
    best, worst = queries["CG"][:2], queries["CG"][2:]
    assert [query["query_id"] for query in best] == ["q0", "q1"]
    assert best[0]["answers"][0] == {
        "role": "found and wanted",
        "id": "0",
        "rank": 1,
        "score": pytest.approx(1),
    }
    assert best[0]["ranks"] == {"blind": N, "seeing": 1}
    assert [query["query_id"] for query in worst] == ["q8", "q9"]
    for query, i in zip(worst, (8, 9), strict=True):
        answers = [
            (answer["role"], answer["id"], answer["rank"], answer["score"]) for answer in query["answers"]
        ]
        assert answers == [
            ("found", str((i + 1) % N), 1, pytest.approx(0.8)),
            ("wanted", str(i), N, pytest.approx(-0.6)),
        ]


def test_frames_are_those_of_the_videos(run: Run, page: str) -> None:
    card = page[page.index(">q0<") : page.index(">q1<")]
    pictures = Tags(card).sources()
    assert len(pictures) == 4  # two frames each of the top result and the first negative
    for uri in pictures[:2]:
        with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
            assert abs(int(np.asarray(image).mean()) - int(colour(0).mean())) < 6
    composed = page[page.index("CMP, composed") :]
    assert len(Tags(composed[: composed.index(">q1<")]).sources()) == 5  # with the query's image
    assert "no pictures of this video: not_a_video" in words(page)  # video 9, in the results of q8 and q9


def test_long_texts_are_cut_and_counted(page: str) -> None:
    text = words(page)
    assert "word54 …" in text
    assert "… word55" in text
    assert "and 145 more words" in text  # 700 - 55 - 500
    assert "word555" not in text


def test_data_set_texts_are_escaped_and_nothing_is_loaded(page: str) -> None:
    parsed = Tags(page)
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert parsed.text.count(EVIL) >= 3  # the query in two data sets, the error in skipped.jsonl
    assert {src.split(",")[0] for src in parsed.sources()} == {"data:image/jpeg;base64"}
    assert not [attrs for _, attrs in parsed.tags if any(name.startswith("on") for name in attrs)]
    assert all(attrs["href"].startswith("#") for tag, attrs in parsed.tags if tag == "a" and attrs["href"])
    assert {tag for tag, _ in parsed.tags} & {"link", "iframe", "object", "video"} == set()


def test_links_of_the_page_have_targets(page: str) -> None:
    parsed = Tags(page)
    anchors = {attrs["id"] for _, attrs in parsed.tags if "id" in attrs}
    links = {(attrs["href"] or "")[1:] for tag, attrs in parsed.tags if tag == "a"}
    assert links <= anchors
    assert {"datasets", "headroom", "queries", "correlations", "run"} <= links


def test_notes_on_comparability_and_cut_texts(page: str) -> None:
    text = words(page)
    assert "All 2 data sets have UVRB's names but differ from the published ones" in text
    assert "MSRVTT: 10 queries, published 1,000; 10 items, published 1,000" in text
    assert "MS-TI: 10 queries, published 400" in text  # its ten candidates are the published number
    assert "4 texts were cut" in text  # one query of each model and data set
    assert "Contamination was not checked" in text
    assert "model m (sha256 abababababab)" in text
    assert "1970-01-01 00:00 UTC" in text


def test_runs_on_other_data_are_not_correlated_with_the_published_models(run: Run, page: str) -> None:
    report = json.loads(run.file("report.json"))["correlations"]
    assert (report["added"], report["published"]["all"]["n"]) == ([], 16)
    assert "This run's models are not included" in words(page)
    for name in ("all", "clip", "mllm", "datasets"):
        assert run.file(f"correlations-{name}.png")[:8] == PNG


def test_results_csv_is_a_table_for_diagnose(run: Run, page: str) -> None:
    rows = read_table(run.folder / "out/results.csv")
    assert {row.lineage for row in rows} == {f"sha256:{'ab' * 32}"}  # the same weights: sister models
    assert [(row.model, dict(row.scores)) for row in rows] == [
        ("blind", {"MSRVTT": 0.0, "MS-TI": 0.0}),
        ("seeing", {"MSRVTT": 0.8, "MS-TI": 0.8}),
    ]
    assert "seeing" in str(diagnose([run.folder / "out/results.csv"], baselines=True, resamples=10))


def whole(run: Run, **names: str) -> dict[str, Any]:
    """Results of all 16 data sets at their published sizes, with the scores of published models."""
    published = {row.model: row for row in published_table()}
    models = {}
    for name, like in names.items():
        row = published[like]
        missing = {"queries": 0, "corpus": 0, "queries_without_positives": 0}
        datasets = {
            dataset: {
                "score": row.scores[dataset],
                "interval": [row.scores[dataset] - 0.01, row.scores[dataset] + 0.01],
                "n_corpus": 10,
                "missing": missing,
                "cut": {"queries": 0, "corpus": 0},
            }
            for dataset in UVRB
        }
        totals = row.summary
        models[name] = {
            **run.results["models"]["seeing"],
            "datasets": datasets,
            "abilities": dict(totals.abilities),
            "ability_intervals": dict.fromkeys(totals.abilities),
            "average_datasets": totals.average_datasets,
            "average_datasets_interval": None,
            "average_abilities": totals.average_abilities,
            "average_abilities_interval": None,
        }
    facts = {
        name: {
            "metric": spec.metric,
            "prompt": spec.prompt,
            "n_queries": round(spec.n_queries * 0.97),
            "n_corpus": spec.n_corpus,
            "revision": "0" * 64,
            "faults": [],
        }
        for name, spec in UVRB.items()
    }
    clusters: dict[str, dict[str, int]] = {"datasets": {}, "abilities": {}}
    return {
        "datasets": facts,
        "clusters": clusters,
        "models": models,
        "comparisons": [],
        "contamination": None,
    }


def whole_page(run: Run, config: EvaluationJobConfig, results: dict[str, Any]) -> Any:
    empty = RetrievalSet(
        name="", query_ids=[], queries=[], corpus_ids=[], corpus=[], positives={}, candidates=None, skipped=[]
    )
    with open(run.folder / "out/results.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", *UVRB])
        for name, model_results in results["models"].items():
            writer.writerow([name, *(model_results["datasets"][set_name]["score"] for set_name in UVRB)])
    return collect(config, run.folder / "out", results, [replace(empty, name=name) for name in UVRB], {})


def test_at_published_sizes_the_run_is_compared_with_the_published_models(run: Run) -> None:
    results = whole(run, blind="CLIP4Clip", seeing="GVE-3B")
    page_data = whole_page(run, run.job(queries=0, baselines=("GVE-7B",)), results)
    assert [(entry.kind, entry.text[:27]) for entry in page_data.notes][:1] == [
        ("good", "All of UVRB's data sets, wi")
    ]
    assert page_data.correlations.added == ["blind", "seeing"]
    assert (
        "n = 18 models of 14 lineages, 2 of them added by this run (blind, seeing)"
        in page_data.correlations.maps[0].note
    )
    assert [(entry.name, entry.published) for entry in page_data.radar] == [
        ("seeing", False),
        ("GVE-7B, published", True),
    ]
    assert [(entry.name, entry.colour) for entry in page_data.columns] == [
        ("blind", None),
        ("seeing", 0),
        ("GVE-7B", 1),
    ]
    text = [entry for entry in page_data.abilities if entry.name == "TXT"]
    assert [round(entry.value, 3) for entry in text[0].scores] == [
        0.401,
        0.619,
        0.657,
    ]  # as printed in the paper
    html_text = words(render(page_data))
    assert "Abilities of seeing" in html_text
    assert "published, on other data" not in html_text


def test_pooled_can_be_forced_either_way(run: Run) -> None:
    results = whole(run, blind="CLIP4Clip", seeing="GVE-3B")
    assert whole_page(run, run.job(queries=0, pooled=False), results).correlations.added == []
    for facts in results["datasets"].values():
        facts["n_queries"] = 10
    assert whole_page(run, run.job(queries=0), results).correlations.added == []
    assert whole_page(run, run.job(queries=0, pooled=True), results).correlations.added == ["blind", "seeing"]


@pytest.mark.parametrize(
    "changes,expected",
    [
        ({"metric": "hit@5"}, "hit@5, published hit@1"),
        ({"prompt": None}, "another prompt"),
        ({"n_queries": 949}, "949 queries, published 1,000"),
        ({"n_queries": 950, "n_corpus": 1050}, ""),
    ],
)
def test_differences_from_the_published_data_sets(run: Run, changes: dict[str, Any], expected: str) -> None:
    results = whole(run, seeing="GVE-3B")
    results["datasets"]["MSRVTT"].update(changes)
    departures = {
        row.name: row.departure
        for row in whole_page(run, run.job(queries=0, model="seeing"), results).datasets
    }
    assert departures.pop("MSRVTT") == expected
    assert set(departures.values()) == {""}


def test_the_contamination_verdict_is_shown(run: Run, page: str) -> None:
    hit = {"dataset": "MSRVTT", "video": EVIL, "training": "films", "training_video": "t1", "how": "exact"}
    check = {
        "checked_videos": 1234,
        "training": ["assets.lance", "films"],
        "datasets": {"MSRVTT": 9, "MS-TI": 0},
    }
    results = {**run.results, "contamination": {**check, "hits": [hit] * 9}}
    text = words(render(collect(run.job(queries=0), run.folder / "out", results, run.sets, {})))
    assert "Contaminated: 9 hits among 1,234 videos match assets.lance, films (MSRVTT 9)" in text
    assert f"MSRVTT: {EVIL} is training video t1 of films (exact)" in text
    assert "and 1 more, all in results.json" in text
    results = {**run.results, "contamination": {**check, "hits": []}}
    text = " ".join(note.text for note in notes(results, {}, has_baselines=False))
    assert "None of the 1,234 evaluation videos was found in assets.lance, films" in text
    assert "Contaminated" not in text


def test_an_unknown_baseline_is_refused_before_the_run(run: Run) -> None:
    check_baselines(run.job(baselines=("blind", "GVE-7B")))
    with pytest.raises(
        PreflightError, match=r"report.baselines: 'GVE-70B' is neither a model of this run .*GVE-7B"
    ):
        check_baselines(run.job(baselines=("GVE-70B",)))
    with pytest.raises(ValueError, match=r"report.model='x': not a model of this run; use blind, seeing"):
        run.job(model="x")


def row(
    dataset: str, query: str, rank: int | None, scores: list[float], positives: list[str]
) -> dict[str, Any]:
    return {
        "model": "m", "dataset": dataset, "query_id": query, "first_rank": rank,
        "positives": positives, "top": ["a", "b", "c"], "top_scores": scores,
    }  # fmt: skip


def test_data_sets_take_turns() -> None:
    rows = [
        row("one", "narrow", 1, [0.9, 0.8, 0.1], ["a"]),
        row("one", "wide", 1, [0.9, 0.2, 0.1], ["a"]),
        row("one", "widest, since b is positive as well", 1, [0.9, 0.8, 0.1], ["a", "b"]),
        row("two", "least", 1, [0.5, 0.45, 0.1], ["a"]),
        row("one", "late", 30, [0.9, 0.8, 0.1], ["z"]),
        row("one", "never", None, [0.9, 0.8, 0.1], ["z"]),
        row("two", "second", 2, [0.9, 0.8, 0.1], ["b"]),
    ]
    best, worst = choose(rows, 3)
    assert [chosen["query_id"] for chosen in best] == ["widest, since b is positive as well", "least", "wide"]
    assert [chosen["query_id"] for chosen in worst] == ["never", "second", "late"]
    assert choose(rows, 0) == ([], [])


def test_figures_are_plain_json(run: Run) -> None:
    results = whole(run, blind="CLIP4Clip", seeing="GVE-3B")
    values = figures(whole_page(run, run.job(queries=0), results))
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["departures"] == {}
    assert [series["name"] for series in values["radar"]] == ["seeing", "blind"]


def test_own_data_sets_and_a_model_without_scores(run: Run, tmp_path: Path) -> None:
    """No data set of UVRB: no abilities and no radar, but the rest of the page."""
    results = json.loads(json.dumps(run.results).replace("MSRVTT", "mine").replace("MS-TI", "yours"))
    unscored = results["models"]["blind"]["datasets"]["mine"]
    unscored.update(score=None, interval=None, n_queries=0, missing=dict.fromkeys(unscored["missing"], 3))
    results["comparisons"] = []
    for model in results["models"].values():
        model.update(abilities={}, ability_intervals={}, average_datasets=None, average_abilities=None)
    rows = pq.read_table(run.folder / "out/per_query.parquet").to_pylist()
    names = {"MSRVTT": "mine", "MS-TI": "yours"}
    rows = [{**entry, "dataset": names[entry["dataset"]]} for entry in rows]
    (tmp_path / "results.csv").write_text("model\nblind\nseeing\n")
    (tmp_path / "skipped.jsonl").write_text("")
    table = [entry for entry in rows if (entry["model"], entry["dataset"]) != ("blind", "mine")]
    pq.write_table(pa.Table.from_pylist(table, schema=PER_QUERY_SCHEMA), tmp_path / "per_query.parquet")
    for entry in names.values():
        (tmp_path / "runs/seeing").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"runs/seeing/{entry}.trec").touch()
    sets = [replace(entry.data, name=names[entry.data.name]) for entry in run.sources]
    page_data = collect(run.job(queries=1), tmp_path, results, sets, {})
    assert (page_data.abilities, page_data.radar, [entry.name for entry in page_data.queries]) == (
        [],
        [],
        [""],
    )
    assert page_data.datasets[0].scores[0] is None
    text = words(render(page_data))
    assert "0 of UVRB's 16 data sets" in text
    assert "data sets outside UVRB" in text
    assert (
        "Left out for all models: 0 errors in the data sets. Counted as misses, over all models: 3 queries that "
        "could not be read, and 3 whose positives, among 3 corpus items, could not be read. 4 texts were cut."
        in text
    )
    assert re.search(r"mine hit@1 none 0\.800", text)
    assert "mine blind 0 3 3 3 1" in text
