"""Show what other thresholds of the filters would keep, from the scores of a run, without Ray.

    print(judge_thresholds(config))       # `gve synthesize --output RUN --thresholds`

The config is that of the run, with the thresholds to try. Nothing is decoded, embedded or captioned. A video
has no score of a stage that it did not reach, so the result says for how many videos that stage would still
have to decide.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from gve_ray.config import config_of
from gve_ray.job import PreflightError
from gve_ray.store.runfolder import RUN_FILE, filesystem
from gve_ray.synthesis.annotate import PARTS
from gve_ray.synthesis.config import CONTENT_THRESHOLDS, SynthesisConfig
from gve_ray.synthesis.scores import SCORES, SCORES_FILE, VERDICT_SCHEMA, Score, cut_of

PERCENTILES = (1, 5, 10, 25, 50, 75, 90)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A threshold, and how many of the videos that reached the stage it would keep and reject.

    percentile: of the scores; None for the threshold of the run.
    """

    percentile: int | None
    threshold: float
    kept: int
    rejected: int


@dataclass(frozen=True, kw_only=True)
class FilterCuts:
    """Thresholds of one filter. reached: videos that came as far as its stage. scored: those with a score."""

    score: str
    stage: str
    option: str
    rejects: str
    reached: int
    scored: int
    cuts: Sequence[Cut]
    note: str = ""

    def __str__(self) -> str:
        lines = [
            f"{self.score} ({self.option}): {self.stage} rejects {self.rejects} the threshold; "
            f"{self.reached:,} videos reached it, {self.scored:,} have a score",
            f"  {'threshold':>12}{'':>18}{'kept':>10}{'rejected':>10}",
        ]
        for cut in self.cuts:
            name = "of the run" if cut.percentile is None else f"percentile {cut.percentile}"
            lines.append(f"  {cut.threshold:>12.5g}{name:>18}{cut.kept:>10,}{cut.rejected:>10,}")
        return "\n".join([*lines, *([f"  {self.note}"] if self.note else [])])


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What becomes of the videos with other thresholds.

    options: by option, its threshold in the run and the one to try. before, after: rejected videos by stage.
    kept: videos that are kept in any case. open_videos: those that would have to pass stages which have not seen
    them; open_at: their number at each of these stages.
    """

    options: Mapping[str, tuple[float | None, float | None]]
    before: Mapping[str, int]
    after: Mapping[str, int]
    kept_before: int
    kept: int
    open_videos: int
    open_at: Mapping[str, int]

    def __str__(self) -> str:
        lines = [f"with {name} {new} instead of {old}" for name, (old, new) in self.options.items()]
        lines.append(f"  {'rejected by':<20}{'run':>10}{'then':>10}")
        lines += [f"  {name:<20}{count:>10,}{self.after[name]:>10,}" for name, count in self.before.items()]
        most = f" to {self.kept + self.open_videos:,}" if self.open_videos else ""
        lines.append(f"  {'kept':<20}{self.kept_before:>10,}{self.kept:>10,}{most}")
        if self.open_videos:
            stages = ", ".join(f"{name} {count:,}" for name, count in self.open_at.items())
            lines.append(
                f"  not known: {self.open_videos:,} videos would go on to stages that have not judged them ({stages})"
            )
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The printable result: videos = kept + rejected + undecided. trial: None if no threshold is changed."""

    output: str
    videos: int
    kept: int
    rejected: int
    undecided: int
    filters: Sequence[FilterCuts]
    trial: Trial | None = field(default=None)

    def to_json(self) -> str:
        """Return all fields as JSON."""
        return json.dumps(asdict(self), indent=1)

    def __str__(self) -> str:
        head = f"{self.output}: {self.videos:,} videos, {self.kept:,} kept, {self.rejected:,} rejected"
        if self.undecided:
            head += f", {self.undecided:,} not decided yet and not counted below"
        return "\n\n".join([head, *map(str, self.filters), *([str(self.trial)] if self.trial else [])])


def judge_thresholds(config: SynthesisConfig) -> Thresholds:
    """Return what thresholds at some percentiles, and those of the config, would keep of the run in its output folder.

    Raises PreflightError if the folder has no scores.
    """
    output = config.output.rstrip("/") or "/"
    scores, facts = _read(output)
    of_run = config_of(SynthesisConfig, facts["config"] | {"output": output})
    order = [
        entry["name"] for entry in facts["stages"] if entry["unit"] == "videos" and entry["name"] not in PARTS
    ]
    order = _with_unused_filters(order, scores.column_names)
    decided = scores.filter(pc.is_valid(scores["kept"]))
    videos = _Videos(decided, order)
    parts = facts.get("parts", {"all": 1})["all"]
    n_kept = int(videos.is_kept.sum())
    return Thresholds(
        output=output,
        videos=scores.num_rows,
        kept=n_kept,
        rejected=decided.num_rows - n_kept,
        undecided=scores.num_rows - decided.num_rows,
        filters=[
            _filter_cuts(videos, name, score, of_run, parts)
            for name, score in SCORES.items()
            if name in videos.scores and score.stage in order
        ],
        trial=_trial(videos, of_run, config),
    )


def _read(output: str) -> tuple[pa.Table, dict[str, Any]]:
    """Return the rows of scores.parquet that are needed here, and the content of run.json."""
    files, root = filesystem(output)
    missing = [
        name
        for name in (RUN_FILE, SCORES_FILE)
        if files.get_file_info(f"{root}/{name}").type != fs.FileType.File
    ]
    if missing:
        raise PreflightError(
            f"output={output!r}: has no {' and no '.join(missing)}; name the output folder of a run of "
            "`gve synthesize` that has finished a part"
        )
    with files.open_input_stream(f"{root}/{RUN_FILE}") as stream:
        facts = json.loads(stream.read())
    with files.open_input_file(f"{root}/{SCORES_FILE}") as file:
        parquet = pq.ParquetFile(file)
        names = [*VERDICT_SCHEMA.names, *SCORES]
        return parquet.read([name for name in names if name in parquet.schema_arrow.names]), facts


class _Videos:
    """The decided videos of a run as arrays. at: int [n], the stage that rejected each, or len(order) if none did."""

    def __init__(self, rows: pa.Table, order: Sequence[str]) -> None:
        self.order = order
        self.is_kept = rows["kept"].to_numpy().astype(bool)
        at = pc.index_in(rows["stage"], value_set=pa.array(order, pa.string()))
        self.at = at.fill_null(len(order)).to_numpy()
        self.scores = {
            name: rows[name].cast(pa.float64()).to_numpy()
            for name, score in SCORES.items()
            if name in rows.column_names and score.stage in order
        }  # NaN where there is none

    def reached(self, stage: str) -> np.ndarray:
        """Return bool [n]: which videos came as far as a stage."""
        reached: np.ndarray = self.at >= self.order.index(stage)
        return reached

    def cut(self, name: str, config: SynthesisConfig) -> float | None:
        """Return a config's threshold of a score, for the videos that reached its stage."""
        values = self.scores[name][self.reached(SCORES[name].stage)]
        return cut_of(name, config, values[~np.isnan(values)])


def _with_unused_filters(order: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return the stages with those content filters that the run did not use, although it has their scores."""
    order, at = list(order), list(order).index("content") + 1 if "content" in order else 0
    for name in CONTENT_THRESHOLDS if at else ():
        if name not in order and name in columns:
            order.insert(at, name)
        at = order.index(name) + 1 if name in order else at
    return order


def _filter_cuts(videos: _Videos, name: str, score: Score, of_run: SynthesisConfig, parts: int) -> FilterCuts:
    reached = videos.reached(score.stage)
    values = videos.scores[name][reached]
    known = values[~np.isnan(values)]
    present = videos.cut(name, of_run)
    percentiles = np.percentile(known, PERCENTILES, method="higher").tolist() if len(known) else []
    # Of percentiles with the same threshold, the last is shown.
    by_threshold = dict(zip(percentiles, PERCENTILES, strict=False))
    thresholds: list[tuple[int | None, float]] = [(at, value) for value, at in by_threshold.items()]
    if present is not None:
        if score.only_rejected:  # what a stricter threshold would reject has no score
            thresholds = [(at, value) for at, value in thresholds if not score.is_stricter(present, value)]
        thresholds.append((None, present))
    cuts = []
    for percentile, threshold in sorted(thresholds, key=lambda item: item[1]):
        rejected = int(score.is_rejected(known, threshold).sum())
        cuts.append(
            Cut(percentile=percentile, threshold=threshold, kept=len(values) - rejected, rejected=rejected)
        )
    return FilterCuts(
        score=name,
        stage=score.stage,
        option=score.option,
        rejects=score.rejects,
        reached=len(values),
        scored=len(known),
        cuts=cuts,
        note=_note(score, of_run, parts),
    )


def _note(score: Score, of_run: SynthesisConfig, parts: int) -> str:
    """Return what the counts cannot say. parts: of the run."""
    if score.only_rejected:
        return "only rejected videos have this score: what a stricter threshold would reject is not known"
    section = reduce(getattr, score.option.split(".")[:-1], cast(Any, of_run))
    if parts > 1 and getattr(section, "percentile", None) is not None:
        return f"the run took the percentile of each of its {parts} parts; that of all videos is shown"
    return ""


def _trial(videos: _Videos, of_run: SynthesisConfig, config: SynthesisConfig) -> Trial | None:
    """Judge all videos again with the thresholds of `config`; None if they are those of the run."""
    cuts = {name: (videos.cut(name, of_run), videos.cut(name, config)) for name in videos.scores}
    cuts = {name: (old, new) for name, (old, new) in cuts.items() if old != new}
    if not cuts:
        return None
    alive = np.ones(len(videos.at), dtype=bool)
    is_open = np.zeros(len(videos.at), dtype=bool)
    after, open_at = {}, {}
    for number, stage in enumerate(videos.order):
        drops, unknown = _judge(videos, number, config, cuts)
        after[stage] = int((alive & drops).sum())
        alive &= ~drops
        is_open |= alive & unknown
        open_at[stage] = alive & unknown
    return Trial(
        options={SCORES[name].option: pair for name, pair in cuts.items()},
        before={stage: int((videos.at == number).sum()) for number, stage in enumerate(videos.order)},
        after=after,
        kept_before=int(videos.is_kept.sum()),
        kept=int((alive & ~is_open).sum()),
        open_videos=int((alive & is_open).sum()),
        open_at={stage: int((rows & alive).sum()) for stage, rows in open_at.items() if (rows & alive).any()},
    )


def _is_off(stage: str, config: SynthesisConfig) -> bool:
    """Return whether a stage judges by a score for which the config has no threshold."""
    names = [name for name, score in SCORES.items() if score.stage == stage]
    return bool(names) and all(cut_of(name, config, []) is None for name in names)


def _judge(
    videos: _Videos,
    number: int,
    config: SynthesisConfig,
    cuts: Mapping[str, tuple[float | None, float | None]],
) -> tuple[np.ndarray, np.ndarray]:
    """Return bool [n] twice: the videos that a stage rejects, and those that it has not judged.

    number: of the stage. cuts: the thresholds that change.
    """
    stage = videos.order[number]
    passed, here, never = videos.at > number, videos.at == number, videos.at < number
    names = [name for name in videos.scores if SCORES[name].stage == stage]
    changed = [name for name in names if name in cuts]
    if not changed and _is_off(stage, config):
        return here, np.zeros_like(never)
    if not names:
        return here, never
    known = {name: ~np.isnan(videos.scores[name]) for name in names}
    hits = np.zeros(len(videos.at), dtype=bool)
    for name in names:
        if (cut := videos.cut(name, config)) is not None:
            hits |= SCORES[name].is_rejected(videos.scores[name], cut)
    unknown = never & ~hits & ~np.logical_and.reduce([known[name] for name in names])
    if not changed:
        return here | (never & hits), unknown
    for name in changed:
        score, (old, new) = SCORES[name], cuts[name]
        # Where the run had no threshold, it may have computed no scores either.
        if old is None or (score.only_rejected and score.is_stricter(old, new)):
            unknown |= passed & ~known[name]
    judged = np.logical_or.reduce([known[name] for name in names])
    return (here & ~judged) | hits, unknown
