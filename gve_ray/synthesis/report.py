"""Write the report of a synthesis run: an HTML file with embedded pictures, and the funnel as PNG.

`collect` reads the stores once, a batch of rows at a time; `render` is pure.
"""

import hashlib
import heapq
import json
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gve_ray import report
from gve_ray.report import picture
from gve_ray.schema import ASSET_SCHEMA
from gve_ray.stage.tokens import tokens_text
from gve_ray.store.runfolder import filesystem, write_atomically
from gve_ray.synthesis import charts
from gve_ray.synthesis.config import SynthesisConfig
from gve_ray.synthesis.consistency import Separation
from gve_ray.synthesis.estimate import Estimate
from gve_ray.synthesis.prompts import PROFILES, VIDEO_STYLES
from gve_ray.synthesis.scores import SCORES, cut_of
from gve_ray.synthesis.spending import spending_text
from gve_ray.synthesis.stages import SynthesisRun
from gve_ray.synthesis.validate import words

TEXT_COLUMNS = {
    "captions": "caption",
    "frame_captions": "frame caption",
    "composed_image": "query with image",
    "composed_clip": "query with clip",
}
_COUNTED = 5_000  # videos, about, whose captions' words are counted
# The scores that assets.lance has; rejects.lance has those of rejected videos.
DRAWN = {name: score for name, score in SCORES.items() if name in ASSET_SCHEMA.names}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage of the funnel. unit: what it counts."""

    name: str
    n_in: int
    n_out: int
    n_rejected: int
    seconds: float
    unit: str = "videos"
    reasons: Sequence[tuple[str, int]] = ()
    width: float = 100.0  # percent of the widest bar of its unit


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart on the page: trusted SVG and a caption."""

    title: str
    svg: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """One video of the page: pictures as data URIs, texts as (kind, text)."""

    name: str
    facts: str = ""
    pictures: Sequence[str] = ()
    texts: Sequence[tuple[str, str]] = ()
    stage: str = ""
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that the template shows."""

    title: str
    headline: Sequence[tuple[str, str]]
    funnel: Sequence[Step]
    charts: Sequence[Chart] = ()
    samples: Sequence[Card] = ()
    rejects: Sequence[Card] = ()
    facts: Sequence[tuple[str, str]] = ()


def render(page: Page) -> str:
    """The page as one HTML text that needs nothing else."""
    return report.render("gve_ray.synthesis", "report.html.j2", **vars(page))


def funnel(stages: Sequence[Mapping[str, Any]], reasons: Mapping[str, Mapping[str, int]]) -> list[Step]:
    """Stages of run.json (name, in, out, rejected, seconds, unit) with the reasons of their rejects."""
    widest: Counter[str] = Counter()
    for stage in stages:
        widest[stage["unit"]] = max(widest[stage["unit"]], stage["in"])
    return [
        Step(
            name=stage["name"],
            n_in=stage["in"],
            n_out=stage["out"],
            n_rejected=stage["rejected"],
            seconds=stage["seconds"],
            unit=stage["unit"],
            reasons=sorted(reasons.get(stage["name"], {}).items(), key=lambda item: (-item[1], item[0])),
            width=round(100 * stage["in"] / max(1, widest[stage["unit"]]), 2),
        )
        for stage in stages
    ]


def score_charts(
    scores: Mapping[str, Sequence[float]],
    cuts: Mapping[str, float | None],
    *,
    mismatched: Sequence[float] = (),
    separation: Separation | None = None,
) -> list[Chart]:
    """A histogram of each score with the cut that was applied; scores without values are left out.

    mismatched: cosines of videos with captions of others, a line over those with their own captions.
    """
    drawn = []
    for name, score in SCORES.items():
        values, title, note = scores.get(name, ()), score.title, score.note
        if values:
            others = mismatched if name == "consistency" else ()
            if others:
                note = f"{note}; line: with the caption of another video; {separation}"
            above = score.rejects == "above"
            svg = charts.histogram(values, label=title, threshold=cuts.get(name), above=above, others=others)
            drawn.append(Chart(title=title, svg=svg, note=f"{len(values):,} videos; {note}"))
    return drawn


def word_charts(annotations: Iterable[Mapping[str, Any]]) -> list[Chart]:
    """Words of the captions by style, and of the rich ones by information profile."""
    by_style: dict[str, list[int]] = {style.name: [] for style in VIDEO_STYLES.values()}
    by_profile: dict[str, list[int]] = {profile: [] for profile in PROFILES}
    for row in annotations:
        for text in row["captions"]:
            count = len(words(text["text"]))
            by_style[text["style"]].append(count)
            if text["style"] == "rich":
                by_profile[text["profile"]].append(count)
    drawn = []
    for title, rows in (("Caption words by style", by_style), ("Rich caption words by profile", by_profile)):
        total = sum(len(values) for values in rows.values())
        if total:
            svg = charts.spans(rows, label=title, unit="words")
            drawn.append(Chart(title=title, svg=svg, note=f"{total:,} captions"))
    return drawn


def collect(run: SynthesisRun, facts: Mapping[str, Any]) -> Page:
    """Read the stores of a run into a page. facts: those of run.json, with `stages` and `pairs`."""
    config, annotations = run.config, run.annotations
    kept = run.assets.table(list(DRAWN))
    scores = {name: array("d", kept[name].drop_null().to_numpy()) for name in DRAWN}
    refused = _Refused(config, scores)
    for batch in run.rejects.batches():
        refused.add(batch)
    captioned: list[Mapping[str, Any]] = []
    annotated, written = annotations.count(), 0
    every = max(1, annotated // _COUNTED)
    for batch in annotations.batches(list(TEXT_COLUMNS), rows=1024):
        written += sum(pc.sum(pc.list_value_length(column)).as_py() or 0 for column in batch.columns)
        some = pa.array(range(0, batch.num_rows, every), pa.int64())
        captioned += batch.select(["captions"]).take(some).to_pylist()
    pairs = facts["pairs"]
    scores |= {name: array("d", run.shared.content_scores(name)) for name in run.shared.content}
    cuts = {name: cut_of(name, config, values) for name, values in scores.items()}
    drawn = score_charts(scores, cuts, mismatched=run.shared.mismatched, separation=run.shared.separation())
    drawn += word_charts(captioned)
    if pairs:
        svg = charts.bars(pairs, label="Pairs by task")
        drawn.append(Chart(title="Pairs by task", svg=svg, note=f"{sum(pairs.values()):,} pairs"))
    steps = funnel(facts["stages"], refused.reasons)
    return Page(
        title=f"{config.input}",
        headline=_headline(steps, annotated, written, facts),
        funnel=steps,
        charts=drawn,
        samples=_sample_cards(run),
        rejects=_reject_cards(run, refused.chosen()),
        facts=_facts(config, facts, run.shared.split_counts()),
    )


def write_report(run: SynthesisRun, facts: Mapping[str, Any]) -> str:
    """Write report.html and funnel.png into the run's folder; returns the page's path."""
    page = collect(run, facts)
    disk, root = filesystem(run.config.output)
    write_atomically(disk, f"{root}/report.html", render(page).encode())
    steps = [(step.name, step.n_in, step.n_out) for step in page.funnel if step.unit == "videos"]
    reasons = {step.name: dict(step.reasons) for step in page.funnel}
    write_atomically(disk, f"{root}/funnel.png", charts.funnel_png(steps, reasons))
    return f"{run.config.output}/report.html"


def _headline(
    steps: Sequence[Step], annotated: int, written: int, facts: Mapping[str, Any]
) -> list[tuple[str, str]]:
    videos = [step for step in steps if step.unit == "videos"]
    numbers = [
        ("videos given", f"{videos[0].n_in:,}" if videos else "0"),
        ("videos annotated", f"{annotated:,}"),
        ("texts written", f"{written:,}"),
        ("training pairs", f"{sum(facts['pairs'].values()):,}"),
        ("minutes", f"{_seconds(facts) / 60:.1f}"),
    ]
    cost = facts.get("spending", {}).get("cost")
    return numbers if cost is None else [*numbers, ("cost of the endpoint", f"{cost:,.2f}")]


def _seconds(facts: Mapping[str, Any]) -> float:
    """Return the time of all runs until now; stages may run at the same time, so their times do not add up."""
    runs = facts.get("runs", ())
    return sum((run["ended"] or time.time()) - run["started"] for run in runs)


class _Refused:
    """Rejects as they stream by: counts by stage and reason, scores that filters cut, and a few rows to show."""

    def __init__(self, config: SynthesisConfig, scores: Mapping[str, "array[float]"]) -> None:
        self.reasons: dict[str, Counter[str]] = {}
        self._config, self._scores = config, scores
        self._rows: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the rows of a batch, add their scores to `scores`, and keep those that may be shown."""
        for row in batch.to_pylist():
            self.reasons.setdefault(row["stage"], Counter())[row["reason"]] += 1
            self._rows.setdefault((row["stage"], row["reason"]), {})[row["video_id"]] = row
            measured = json.loads(row["scores"] or "{}")
            for name, score in DRAWN.items():
                if row["stage"] == score.stage and measured.get(name) is not None:
                    self._scores[name].append(measured[name])
        for reason, rows in self._rows.items():
            ids = _draw(self._config, rows, self._config.report.rejects)
            self._rows[reason] = {video_id: rows[video_id] for video_id in ids}

    def chosen(self) -> list[Mapping[str, Any]]:
        """Refusals of every reason in turn, until there are enough; by stage and reason."""
        queues = [list(rows.values()) for _, rows in sorted(self._rows.items())]
        chosen: list[Mapping[str, Any]] = []
        while any(queues) and len(chosen) < self._config.report.rejects:
            chosen += [queue.pop(0) for queue in queues if queue]
        return sorted(chosen[: self._config.report.rejects], key=lambda row: (row["stage"], row["reason"]))


def _draw(config: SynthesisConfig, ids: Iterable[str], n: int) -> list[str]:
    """n ids that look random and are the same for the same seed."""

    def rank(video_id: str) -> bytes:
        return hashlib.sha256(f"{config.seed}/report/{video_id}".encode()).digest()

    return heapq.nsmallest(n, ids, key=rank)


def _sample_cards(run: SynthesisRun) -> list[Card]:
    named = (video_id.as_py() for video_id in run.annotations.table(["video_id"])["video_id"])
    ids = _draw(run.config, named, run.config.report.samples)
    texts = run.annotations.take(ids, ["video_id", *TEXT_COLUMNS]).to_pylist() if ids else []
    by_id = {row["video_id"]: row for row in texts}
    facts = ["width", "height", "fps", "duration", "motion", "consistency"]
    columns = ["video_id", "uri", "caption", "frames", "shot", *facts]
    return [
        Card(
            name=_name(row),
            facts=_asset_facts(row),
            pictures=[picture(jpeg) for jpeg in row["frames"]],
            texts=[("web caption", row["caption"] or "none"), *_texts(by_id[row["video_id"]])],
        )
        for row in (run.assets.take(ids, columns).to_pylist() if ids else [])
    ]


def _name(row: Mapping[str, Any]) -> str:
    shot = row["shot"]
    return f"{row['uri']}, {shot['start']:.1f} to {shot['end']:.1f} s" if shot else str(row["uri"])


def _asset_facts(row: Mapping[str, Any]) -> str:
    facts = f"{row['width']}x{row['height']}, {row['fps']:.4g} fps, {row['duration']:.1f} s"
    facts += f", motion {row['motion']:.3f}"
    return facts if row["consistency"] is None else f"{facts}, consistency {row['consistency']:.3f}"


def _texts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"{name}, {text['style']}", text["text"])
        for column, name in TEXT_COLUMNS.items()
        for text in row[column]
    ]


def _reject_cards(run: SynthesisRun, chosen: Sequence[Mapping[str, Any]]) -> list[Card]:
    decoded = run.decoded
    requested = pa.array(sorted({row["video_id"] for row in chosen}), pa.string())
    there = decoded.table(["video_id"])["video_id"].combine_chunks()
    ids = requested.filter(pc.is_in(requested, value_set=there)).to_pylist()
    stored = decoded.take(ids, ["video_id", "frames"]).to_pylist() if ids else []
    frames = {row["video_id"]: row["frames"] for row in stored}
    return [
        Card(
            name=row["video_id"],
            stage=row["stage"],
            reason=row["reason"],
            detail=row["detail"],
            pictures=[picture(jpeg) for jpeg in frames.get(row["video_id"], ())],
        )
        for row in chosen
    ]


def _facts(
    config: SynthesisConfig, facts: Mapping[str, Any], split: Mapping[str, int] | None
) -> list[tuple[str, str]]:
    embedder = config.quality.consistency
    parts = facts.get("parts", {"all": 1})
    is_trial = config.limit is not None and facts.get("estimate")
    shown = {
        "finished": f"{parts['finished']} of {parts['all']} parts" if parts["all"] > 1 else None,
        "input": config.input,
        "output": config.output,
        "seed": config.seed,
        "long videos": split and f"{split['videos']:,}, split into {split['shots']:,} shots",
        "captioner": f"{config.captioner.model} ({config.captioner.revision or 'no pinned revision'})",
        "consistency embedder": embedder.model or "none",
        "captioner's engine": next(
            (tokens_text(stage["tokens"]) for stage in facts["stages"] if stage.get("tokens")), None
        ),
        "captioner's endpoint": spending_text(facts["spending"]) if facts.get("spending") else None,
        "whole input": Estimate.from_dict(facts["estimate"]) if is_trial else None,
        "frames": f"{config.media.frames} of at most {config.media.max_pixels} pixels",
        "config": facts.get("config_hash"),
        "git revision": facts.get("git"),
        "runs": len(facts.get("runs", ())),
        "versions": ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items()),
    }
    return [(name, str(value)) for name, value in shown.items() if value is not None]
