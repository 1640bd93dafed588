"""A finished synthesis run of the demo, held against the truth of its corpus.

    summary = score_synthesis("runs/demo", "runs/demo-raw")
    print(format_summary(summary))

Every verdict is read from what the run committed (rejects.lance, assets.lance, annotations.lance, uvrd/)
and every truth from the corpus. A file or caption found by the wrong stage counts against both stages.
The captions are on scenes the captioner never saw: it learnt from split `tiny`, the corpus is drawn from
`corpus`, and no object (colour, shape, size, background, start place) is in both.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gve_ray.demo.corpus import read_truth
from gve_ray.demo.facts import judge
from gve_ray.demo.plan import COPIES, Entry
from gve_ray.demo.scenes import Scene
from gve_ray.schema import ANNOTATION_SCHEMA, ASSET_SCHEMA, Task
from gve_ray.stage import REJECT_SCHEMA
from gve_ray.store import Store
from gve_ray.store.runfolder import seconds_of

RICH = "rich"  # style of the spatial-temporal caption of prompt 1
# Last words on a prompt 1 that never became five captions; the other reasons are about what valid JSON says.
NO_JSON = ("invalid_json", "wrong_keys", "not_text", "truncated", "refused", "error", "quarantined")


def f1_of(*, hits: int, false_alarms: int, misses: int) -> dict[str, float]:
    """Precision, recall and f1 from counts; 1.0 where there was nothing to find and nothing was found."""
    precision = hits / (hits + false_alarms) if hits + false_alarms else 1.0
    recall = hits / (hits + misses) if hits + misses else 1.0
    f1 = 2 * hits / (2 * hits + false_alarms + misses) if hits + false_alarms + misses else 1.0
    return {"precision": precision, "recall": recall, "f1": f1}


def compare(found: Collection[str], true: Collection[str]) -> dict[str, float]:
    """Precision, recall and f1 of a set of ids against the true set."""
    found, true = set(found), set(true)
    hits = len(found & true)
    return f1_of(hits=hits, false_alarms=len(found) - hits, misses=len(true) - hits)


def compare_copies(found: Collection[str], groups: Iterable[Collection[str]]) -> dict[str, float]:
    """The same for near-duplicates: of each group of g, any g - 1 are to be found, whichever is kept."""
    found = set(found)
    hits = misses = 0
    for group in groups:
        caught = min(len(found & set(group)), len(group) - 1)
        hits += caught
        misses += len(group) - 1 - caught
    return f1_of(hits=hits, false_alarms=len(found) - hits, misses=misses)


def roc_auc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """Chance that a positive's score is above a negative's, ties counting half; None if either is empty."""
    if not positive or not negative:
        return None
    p, n = np.asarray(positive)[:, None], np.asarray(negative)[None, :]
    return float((p > n).mean() + (p == n).mean() / 2)


def copy_groups(entries: Iterable[Entry]) -> list[set[str]]:
    """The sets of videos that are one another's copies, the original included."""
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if entry.kind in COPIES:
            assert entry.duplicate_of is not None
            groups[entry.duplicate_of] |= {entry.duplicate_of, entry.video_id}
    return list(groups.values())


def score_quality(
    entries: Sequence[Entry], rejected: Mapping[str, set[str]], consistency: Mapping[str, float]
) -> dict[str, Mapping[str, float | None]]:
    """The five filters against the truth.

    rejected: video ids by stage. consistency: the cosine of caption and video of every video that got one,
    kept or not. Junk captions that came through to the consistency stage are neither true nor mismatched
    there: they count in `junk_captions` only.
    """
    ids = {e.video_id for e in entries}
    strangers = sorted(set().union(*rejected.values(), consistency) - ids)
    if strangers:
        raise ValueError(f"{len(strangers)} videos of the run are not in this corpus, first {strangers[:3]}")
    by_caption: defaultdict[str, set[str]] = defaultdict(set)
    for entry in entries:
        by_caption[entry.caption_kind].add(entry.video_id)
    scores = {
        kind: [consistency[i] for i in sorted(by_caption[kind]) if i in consistency]
        for kind in ("true", "mismatched")
    }
    refused = rejected.get("consistency", set()) - by_caption["junk"]
    return {
        "broken": compare(rejected.get("integrity", ()), {e.video_id for e in entries if e.broken}),
        "junk_captions": compare(rejected.get("rectify", ()), by_caption["junk"]),
        "static": compare(rejected.get("dynamics", ()), {e.video_id for e in entries if e.kind == "static"}),
        "near_duplicates": compare_copies(rejected.get("duplicates", ()), copy_groups(entries)),
        "mismatched": {
            "auc": roc_auc(scores["true"], scores["mismatched"]),
            "f1": compare(refused, by_caption["mismatched"])["f1"],
        },
    }


def score_captions(
    captions: Mapping[str, Mapping[str, str]], scenes: Mapping[str, Scene]
) -> dict[str, float]:
    """How true and how complete captions are: by video id, the texts of prompt 1 by style, and the scenes.

    facts_true: of the facts stated in all captions, the share that holds (1 - hallucination rate).
    facts_stated: of the scenes' facts, the share that the rich caption states. Both over all videos at once.
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
    """What summary.json holds under `synthesis`: counts of the run and its quality by the corpus' truth.

    Raises ValueError if the run is not finished or is not of this corpus, FileNotFoundError if either
    folder holds nothing.
    """
    run, entries = Path(run_folder), read_truth(Path(corpus_folder))
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    if "pairs" not in facts:
        raise ValueError(f"{run}: this run has not come to its end; start it again to go on")
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
        "pairs": {task.value: _count_pairs(run / "uvrd" / f"task={task.value}") for task in Task},
    }


def _consistency(run: Path, rejects: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The cosine of caption and video by video id, of the kept and of those rejected for it."""
    kept = Store(str(run / "assets.lance"), ASSET_SCHEMA).table(["video_id", "consistency"]).to_pylist()
    found = {row["video_id"]: row["consistency"] for row in kept if row["consistency"] is not None}
    for row in rejects:
        if row["stage"] == "consistency":
            found[row["video_id"]] = json.loads(row["scores"])["consistency"]
    return found


def _score_annotations(
    run: Path, rejects: Sequence[Mapping[str, Any]], entries: Sequence[Entry]
) -> dict[str, float]:
    rows = (
        Store(str(run / "annotations.lance"), ANNOTATION_SCHEMA).table(["video_id", "captions"]).to_pylist()
    )
    refused = [row["reason"] for row in rejects if row["stage"] == "captions"]
    asked = len(rows) + len(refused)
    captions = {row["video_id"]: {one["style"]: one["text"] for one in row["captions"]} for row in rows}
    return {
        "n": asked,
        "valid_json": 1 - sum(reason in NO_JSON for reason in refused) / max(1, asked),
        **score_captions(captions, {entry.video_id: entry.scene for entry in entries}),
    }


def _count_pairs(folder: Path) -> int:
    """Rows of the Parquet files of one task."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in sorted(folder.glob("*.parquet")))


def format_summary(summary: Mapping[str, Any]) -> str:
    """The summary as a table for people."""

    def cells(*values: Any) -> str:
        shown = ("-" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in values)
        return f"{values[0]:<18}" + "".join(f"{v:>11}" for v in list(shown)[1:])

    quality, captions = summary["quality"], summary["captions"]
    lines = [f"{summary['videos']} videos, {summary['seconds']:.0f} s", ""]
    lines += [cells("stage", "in", "out", "rejected")]
    lines += [cells(*(stage[k] for k in ("name", "in", "out", "rejected"))) for stage in summary["stages"]]
    lines += ["", cells("found by truth", "precision", "recall", "f1", "auc")]
    for name, scores in quality.items():
        lines.append(cells(name, *(scores.get(k) for k in ("precision", "recall", "f1", "auc"))))
    lines += ["", cells("captions", "valid JSON", "true", "stated")]
    lines += [cells(str(captions["n"]), *(captions[k] for k in ("valid_json", "facts_true", "facts_stated")))]
    lines += [
        "",
        cells("pairs", *summary["pairs"]),
        cells(str(sum(summary["pairs"].values())), *summary["pairs"].values()),
    ]
    return "\n".join(lines)
