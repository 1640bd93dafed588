"""Score a finished synthesis run of the demo against the ground truth of its corpus.

    summary = score_synthesis("runs/demo/synthesis", "runs/demo/raw")
    print(format_summary(summary))

The decisions of the run are read from its output (rejects.lance, assets.lance, annotations.lance,
uvrd/). A file or caption that is rejected by the wrong stage counts as an error of both stages. The
captioner has not seen the scenes it describes: it was trained on the split `tiny`, and the corpus
belongs to the split `corpus`.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gve_ray.demo.corpus import read_truth
from gve_ray.demo.facts import judge
from gve_ray.demo.plan import COPIES, Entry
from gve_ray.demo.scenes import Scene
from gve_ray.schema import ANNOTATION_SCHEMA, ASSET_SCHEMA, UVRD_TASKS
from gve_ray.stage import REJECT_SCHEMA
from gve_ray.store import Store
from gve_ray.store.runfolder import seconds_of
from gve_ray.synthesis.consistency import roc_auc

RICH = "rich"  # style of the spatial-temporal caption of prompt 1
# Reject reasons of replies to prompt 1 that are not JSON with five captions. All other reasons
# concern their content.
NO_JSON = ("invalid_json", "wrong_keys", "not_text", "truncated", "refused", "error", "quarantined")


def f1_of(*, hits: int, false_alarms: int, misses: int) -> dict[str, float]:
    """Return precision, recall and f1 from counts. They are 1.0 if there was nothing to find and
    nothing was found.
    """
    precision = hits / (hits + false_alarms) if hits + false_alarms else 1.0
    recall = hits / (hits + misses) if hits + misses else 1.0
    f1 = 2 * hits / (2 * hits + false_alarms + misses) if hits + false_alarms + misses else 1.0
    return {"precision": precision, "recall": recall, "f1": f1}


def compare(predicted: Collection[str], true: Collection[str]) -> dict[str, float]:
    """Return precision, recall and f1 of a set of ids against the true set."""
    predicted, true = set(predicted), set(true)
    hits = len(predicted & true)
    return f1_of(hits=hits, false_alarms=len(predicted) - hits, misses=len(true) - hits)


def compare_copies(predicted: Collection[str], groups: Iterable[Collection[str]]) -> dict[str, float]:
    """Return precision, recall and f1 for near-duplicates.

    All but one video of each group should be rejected; it does not matter which one is kept.
    """
    predicted = set(predicted)
    hits = misses = 0
    for group in groups:
        group_hits = min(len(predicted & set(group)), len(group) - 1)
        hits += group_hits
        misses += len(group) - 1 - group_hits
    return f1_of(hits=hits, false_alarms=len(predicted) - hits, misses=misses)


def copy_groups(entries: Iterable[Entry]) -> list[set[str]]:
    """Return the sets of videos that are copies of one another, including the original."""
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if entry.kind in COPIES:
            assert entry.duplicate_of is not None
            groups[entry.duplicate_of] |= {entry.duplicate_of, entry.video_id}
    return list(groups.values())


def score_quality(
    entries: Sequence[Entry], rejected: Mapping[str, set[str]], consistency: Mapping[str, float]
) -> dict[str, Mapping[str, float | None]]:
    """Score the five filters against the ground truth.

    rejected: video ids by stage. consistency: cosine of caption and video for every video that has
    one, kept or not. Junk captions that reach the consistency stage are neither true nor
    mismatched, so they count in `junk_captions` only. Raises ValueError if the run has videos that
    are not in the corpus.
    """
    ids = {e.video_id for e in entries}
    unknown = sorted(set().union(*rejected.values(), consistency) - ids)
    if unknown:
        raise ValueError(
            f"{len(unknown)} videos of the run are not in this corpus, for example {unknown[:3]}"
        )
    by_caption: defaultdict[str, set[str]] = defaultdict(set)
    for entry in entries:
        by_caption[entry.caption_kind].add(entry.video_id)
    scores = {
        kind: [consistency[i] for i in sorted(by_caption[kind]) if i in consistency]
        for kind in ("true", "mismatched")
    }
    inconsistent = rejected.get("consistency", set()) - by_caption["junk"]
    return {
        "broken": compare(rejected.get("integrity", ()), {e.video_id for e in entries if e.broken}),
        "junk_captions": compare(rejected.get("rectify", ()), by_caption["junk"]),
        "static": compare(rejected.get("dynamics", ()), {e.video_id for e in entries if e.kind == "static"}),
        "near_duplicates": compare_copies(rejected.get("duplicates", ()), copy_groups(entries)),
        "mismatched": {
            "auc": roc_auc(scores["true"], scores["mismatched"]),
            "f1": compare(inconsistent, by_caption["mismatched"])["f1"],
        },
    }


def score_captions(
    captions: Mapping[str, Mapping[str, str]], scenes: Mapping[str, Scene]
) -> dict[str, float]:
    """Score how accurate and how complete captions are.

    captions: texts of prompt 1 by style, by video id. scenes: by video id. Returns facts_true, the
    share of facts stated in all captions that are true (1 - hallucination rate), and facts_stated,
    the share of the scenes' facts that the rich captions state. Both are computed over all videos
    together.
    """
    total: Counter[str] = Counter()
    for video_id, texts in captions.items():
        for style, text in texts.items():
            judgement = judge(text, scenes[video_id])
            total.update(stated=judgement.stated, true=judgement.true)
            if style == RICH:
                total.update(covered=judgement.covered, facts=judgement.total)
    return {
        "facts_true": total["true"] / max(1, total["stated"]),
        "facts_stated": total["covered"] / max(1, total["facts"]),
    }


def score_synthesis(run_folder: str | Path, corpus_folder: str | Path) -> dict[str, Any]:
    """Return the `synthesis` part of summary.json: counts of the run, and its quality by the ground
    truth.

    Raises ValueError if the run is not finished or used another corpus, FileNotFoundError if either
    folder does not hold what it should.
    """
    run, entries = Path(run_folder), read_truth(Path(corpus_folder))
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    if "pairs" not in facts:
        raise ValueError(f"{run}: this run is not finished; start it again to resume it")
    rejects = Store(str(run / "rejects.lance"), REJECT_SCHEMA).table().to_pylist()
    rejected: defaultdict[str, set[str]] = defaultdict(set)
    for row in rejects:
        rejected[row["stage"]].add(row["video_id"])
    return {
        "videos": len(entries),
        "seconds": round(seconds_of(facts), 1),
        "stages": [
            {name: stage[name] for name in ("name", "in", "out", "rejected")} for stage in facts["stages"]
        ],
        "quality": score_quality(entries, rejected, _consistency(run, rejects)),
        "captions": _score_annotations(run, rejects, entries),
        "pairs": {task.value: _count_pairs(run / "uvrd" / f"task={task.value}") for task in UVRD_TASKS},
    }


def _consistency(run: Path, rejects: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the cosine of caption and video by video id, for kept videos and for those rejected as
    inconsistent.
    """
    kept = Store(str(run / "assets.lance"), ASSET_SCHEMA).table(["video_id", "consistency"]).to_pylist()
    cosines = {row["video_id"]: row["consistency"] for row in kept if row["consistency"] is not None}
    for row in rejects:
        if row["stage"] == "consistency":
            cosines[row["video_id"]] = json.loads(row["scores"])["consistency"]
    return cosines


def _score_annotations(
    run: Path, rejects: Sequence[Mapping[str, Any]], entries: Sequence[Entry]
) -> dict[str, float]:
    rows = (
        Store(str(run / "annotations.lance"), ANNOTATION_SCHEMA).table(["video_id", "captions"]).to_pylist()
    )
    reasons = [row["reason"] for row in rejects if row["stage"] == "captions"]
    total = len(rows) + len(reasons)
    captions = {row["video_id"]: {c["style"]: c["text"] for c in row["captions"]} for row in rows}
    return {
        "n": total,
        "valid_json": 1 - sum(reason in NO_JSON for reason in reasons) / max(1, total),
        **score_captions(captions, {entry.video_id: entry.scene for entry in entries}),
    }


def _count_pairs(folder: Path) -> int:
    """Return the number of rows in the Parquet files of one task."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in sorted(folder.glob("*.parquet")))


def format_summary(summary: Mapping[str, Any]) -> str:
    """Return the summary as a few readable lines."""
    stages = [f"{stage['name']} {stage['out']}/{stage['in']}" for stage in summary["stages"]]
    captions = summary["captions"]
    filters = [f"{name.replace('_', ' ')} {scores['f1']:.2f}" for name, scores in summary["quality"].items()]
    auc = summary["quality"]["mismatched"]["auc"]
    pairs = [f"{task} {count}" for task, count in summary["pairs"].items()]
    return "\n".join(
        [
            f"synthesis   {summary['videos']} videos in {summary['seconds']:.0f} s; kept of each stage's input:",
            f"            {', '.join(stages[: len(stages) // 2])},",
            f"            {', '.join(stages[len(stages) // 2 :])}",
            f"filters     F1: {', '.join(filters)}" + ("" if auc is None else f" (AUC {auc:.3f})"),
            f"captions    {captions['n']}: valid JSON {captions['valid_json']:.3f}, "
            f"facts true {captions['facts_true']:.3f}, facts stated {captions['facts_stated']:.3f}",
            f"pairs       {sum(summary['pairs'].values())}: {', '.join(pairs)}",
        ]
    )
