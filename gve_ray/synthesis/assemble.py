"""Turn annotations into training pairs for all seven tasks (arXiv:2510.27571, Table 7).

    result = assemble(annotations, "runs/x/uvrd", config=AssembleConfig(), seed=42)

No model runs here, and a rerun writes the same bytes. Each annotated video yields candidate pairs;
each task keeps up to its quota of them, those with the smallest hash of (seed, task, pair id). There
are two passes over annotations.lance. The second is in the order of video ids, so the output does not
depend on the order of commits. Memory use is 8 bytes per candidate and one chunk of rows. Table 7's
quotas are shares: if `scale` is unset they are scaled so that T2V takes all its candidates. A task
with too few candidates stays below its quota, and the counts show it.

While the parts of a larger input still come, each part leaves a separate set, with its share of the
quotas, in files `part-early-*`. The last part replaces them all by the pairs of the whole input.
"""

import hashlib
import math
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from json.encoder import encode_basestring as _quoted
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from gve_ray.progress import Progress
from gve_ray.schema import PAIR_SCHEMA, UVRD_TASKS, AssetRef, Task
from gve_ray.stage import StageCounts
from gve_ray.store import Store
from gve_ray.store.runfolder import filesystem
from gve_ray.synthesis.config import AssembleConfig
from gve_ray.synthesis.prompts import rng_for
from gve_ray.synthesis.stages import Stage, SynthesisRun

INSTRUCTIONS: Mapping[Task, str] = {
    Task.T2T: "Find a text that says the same.",
    Task.T2I: "Find the picture that the text describes.",
    Task.T2V: "Find the video that the text describes.",
    Task.TI2V: "Find the video that the text and the picture describe together.",
    Task.TV2V: "Find the video that the text and the clip describe together.",
    Task.I2V: "Find the video that the picture belongs to.",
    Task.V2V: "Find the whole video that the clip belongs to.",
}
COLUMNS = [
    "video_id", "duration", "reference_timestamps", "clip_spans",
    "captions", "frame_captions", "composed_image", "composed_clip",
]  # fmt: skip
FINAL, EARLY = "part-", "part-early-"  # prefixes of the files of pairs
_CHUNK = 1024
_PART_ROWS = 20_000
_NO_MEDIA = {"text": None, "image": None, "video": None}
_PROFILE_DOMAINS = {"spatial": "FG-S", "temporal": "FG-T"}


@dataclass(frozen=True, kw_only=True)
class TaskCounts:
    """A task's quota, its number of candidate pairs, and the pairs written: the smaller of the two."""

    quota: int
    candidates: int
    pairs: int


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """Counts of candidate pairs: those not written were over their task's quota."""

    counts: StageCounts
    tasks: Mapping[Task, TaskCounts]


def assemble_pairs(run: SynthesisRun, stage: Stage) -> StageCounts:
    """Write the training pairs of a run below `output`/uvrd. The counts are of all its parts so far."""
    config, shared, out = run.config, run.shared, f"{run.config.output}/uvrd"
    if run.part == run.parts - 1:
        assembled = assemble(run.annotations, out, config=config.assemble, seed=config.seed)
        shared.assembled = [assembled]
    else:
        share = run.manifest.num_rows / len(shared.ids)
        assembled = assemble(
            run.annotations,
            out,
            config=early_config(config.assemble, share),
            seed=config.seed,
            ids=run.ids,
            prefix=f"{EARLY}{run.part:05d}-",
        )
        shared.assembled.append(assembled)
    shared.pairs = {
        task.value: sum(part.tasks[task].pairs for part in shared.assembled) for task in UVRD_TASKS
    }
    n_in, n_out = (sum(getattr(part.counts, name) for part in shared.assembled) for name in ("n_in", "n_out"))
    return StageCounts(name=stage.name, n_in=n_in, n_out=n_out, n_rejected=n_in - n_out, seconds=0.0)


def early_config(config: AssembleConfig, share: float) -> AssembleConfig:
    """Return the config for a part with this share of the videos: its quotas are that share of the whole."""
    return config if config.scale is None else replace(config, scale=config.scale * share)


def assemble(
    annotations: Store,
    out: str,
    *,
    config: AssembleConfig,
    seed: int,
    part_rows: int = _PART_ROWS,
    ids: pa.Array | None = None,
    prefix: str = FINAL,
) -> Assembled:
    """Write `out`/task=*/part-*.parquet (`PAIR_SCHEMA`). All files appear at the end, in place of earlier ones.

    out: local folder or any URI of pyarrow's filesystems. ids: of the videos to take; by default all.
    prefix: of the names of the files, which replace those with the same prefix; the default, `FINAL`, replaces
    all. Files with another prefix are not written where there is a final set, of an earlier and shorter input:
    its pairs are the same.
    """
    begun = time.monotonic()
    progress = Progress("assemble, two passes", 2 * (annotations.count() if ids is None else len(ids)))
    videos: list[str] = []
    rows = annotations.batches if ids is None else partial(annotations.select, ids)
    ranks: dict[Task, array[int]] = {task: array("Q") for task in UVRD_TASKS}
    for batch in rows(COLUMNS, rows=_CHUNK):
        for row in batch.to_pylist():
            videos.append(row["video_id"])
            for task, pair in candidates(row, seed, config):
                ranks[task].append(_rank(seed, task, pair))
        progress.reach(len(videos))
    available = {task: len(ranks[task]) for task in UVRD_TASKS}
    targets = quotas(config, available)
    cuts = {task: _cut(ranks[task], targets[task]) for task in UVRD_TASKS}
    written = dict.fromkeys(UVRD_TASKS, 0)
    with _Parts(out, part_rows, prefix) as parts:
        videos.sort()
        for start in range(0, len(videos), _CHUNK):
            for row in annotations.take(videos[start : start + _CHUNK], COLUMNS).to_pylist():
                for task, pair in candidates(row, seed, config):
                    if _rank(seed, task, pair) <= cuts[task]:
                        parts.add(task, pair)
                        written[task] += 1
            progress.reach(min(start + _CHUNK, len(videos)) + len(videos))
    progress.close()
    return Assembled(
        counts=StageCounts(
            name="assemble",
            n_in=sum(available.values()),
            n_out=sum(written.values()),
            n_rejected=sum(available.values()) - sum(written.values()),
            seconds=time.monotonic() - begun,
        ),
        tasks={
            task: TaskCounts(quota=targets[task], candidates=available[task], pairs=written[task])
            for task in UVRD_TASKS
        },
    )


def quotas(config: AssembleConfig, available: Mapping[Task, int]) -> dict[Task, int]:
    """Pairs wanted of each task, rounded up. available: number of candidate pairs of each task.

    Unless `config.scale` is set, the scale is where T2V takes all its candidates; without a T2V quota,
    where the task that has most candidates for its quota takes all of them.
    """
    shares = {task: config.quotas.get(task.value, 0) for task in UVRD_TASKS}
    scale = config.scale
    if scale is None:
        leading = [Task.T2V] if shares[Task.T2V] else list(UVRD_TASKS)
        scale = max((available[task] / shares[task] for task in leading if shares[task]), default=0.0)
    # 1e-9: a scale of n / share times the share is n, not n + 1
    return {task: math.ceil(shares[task] * scale - 1e-9) for task in UVRD_TASKS}


def candidates(
    row: Mapping[str, Any], seed: int, config: AssembleConfig
) -> Iterator[tuple[Task, dict[str, Any]]]:
    """All pairs that one row of annotations.lance offers, as rows of `PAIR_SCHEMA`.

    row: the columns of `COLUMNS`. `captions_per_video` captions, drawn by the seed, are queries of T2V; two
    of the other captions are T2T. Each captioned frame is a T2I with one of its captions.
    """
    video_id = row["video_id"]
    rng = rng_for(seed, video_id, "pairs")
    video = {"video": str(AssetRef(video_id))}
    captions = rng.sample(row["captions"], len(row["captions"]))
    long = row["duration"] >= config.long_seconds
    for query in captions[: config.captions_per_video]:
        yield _pair(
            Task.T2V, {"text": query["text"]}, video, caption_domain(query, long=long), query["style"]
        )
    if len(captions) >= config.captions_per_video + 2:
        query, target = captions[config.captions_per_video :][:2]
        text = {"text": target["text"]}
        yield _pair(Task.T2T, {"text": query["text"]}, text, caption_domain(query, long=long), query["style"])
    frames: dict[str, list[Mapping[str, Any]]] = {}
    for caption in row["frame_captions"]:
        frames.setdefault(caption["ref"], []).append(caption)
    for ref, texts in sorted(frames.items()):
        query = rng.choice(texts)
        domain = caption_domain(query, long=False)
        yield _pair(Task.T2I, {"text": query["text"]}, {"image": ref}, domain, query["style"])
    for composed in row["composed_image"]:
        yield _pair(
            Task.TI2V, {"text": composed["text"], "image": composed["ref"]}, video, "CMP", composed["style"]
        )
    for composed in row["composed_clip"]:
        yield _pair(
            Task.TV2V, {"text": composed["text"], "video": composed["ref"]}, video, "CMP", composed["style"]
        )
    if row["reference_timestamps"]:
        frame = AssetRef(video_id, "frame", rng.randrange(len(row["reference_timestamps"])))
        yield _pair(Task.I2V, {"image": str(frame)}, video, "VIS", "frame")
    if row["clip_spans"]:
        clip = AssetRef(video_id, "clip", rng.randrange(len(row["clip_spans"])))
        yield _pair(Task.V2V, {"video": str(clip)}, video, "VIS", "clip")


def caption_domain(caption: Mapping[str, Any], *, long: bool) -> str:
    """Return the UVRB ability that a caption trains as a query, from its style and profile.

    Partial captions are PR; rich ones LC for a long video, else FG-S or FG-T by their information profile;
    all others, and rich ones of no profile, CG.
    """
    if caption["style"] == "partial":
        return "PR"
    if caption["style"] == "rich":
        return "LC" if long else _PROFILE_DOMAINS.get(caption["profile"], "CG")
    return "CG"


def pair_id(task: Task, query: Mapping[str, Any], target: Mapping[str, Any]) -> str:
    """32 hex digits of the hash of [task, query, target] as JSON with sorted keys. Both have all keys of an item."""
    text = f'["{task.value}", {_json(query)}, {_json(target)}]'
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _json(item: Mapping[str, Any]) -> str:
    """Return the text of `json.dumps`, which itself would take half of the assembly's time."""
    image, text, video = (
        "null" if item[name] is None else _quoted(item[name]) for name in ("image", "text", "video")
    )
    return f'{{"image": {image}, "text": {text}, "video": {video}}}'


def _pair(
    task: Task, query: Mapping[str, str], target: Mapping[str, str], domain: str, style: str
) -> tuple[Task, dict[str, Any]]:
    full_query, full_target = {**_NO_MEDIA, **query}, {**_NO_MEDIA, **target}
    return task, {
        "pair_id": pair_id(task, full_query, full_target),
        "task": task.value,
        "query": full_query,
        "target": full_target,
        "negatives": [],  # mined in training
        "instruction": INSTRUCTIONS[task],
        "domain": domain,
        "style": style,
    }


def _rank(seed: int, task: Task, pair: Mapping[str, Any]) -> int:
    digest = hashlib.sha256(f"{seed}:{task.value}:{pair['pair_id']}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _cut(ranks: "Sequence[int]", quota: int) -> int:
    """The largest rank among the `quota` smallest; -1 for none."""
    if quota <= 0 or not ranks:
        return -1
    values = np.asarray(ranks, dtype=np.uint64)
    if quota >= len(values):
        return int(values.max())
    return int(np.partition(values, quota - 1)[quota - 1])


class _Parts:
    """Writes the Parquet files of all tasks. They get their final names when all are complete."""

    def __init__(self, out: str, part_rows: int, prefix: str) -> None:
        self._fs, self._root = filesystem(out)
        self._part_rows, self._prefix = part_rows, prefix
        self._rows: dict[Task, list[dict[str, Any]]] = {task: [] for task in UVRD_TASKS}
        self._names: dict[Task, list[str]] = {task: [] for task in UVRD_TASKS}
        self._is_skipped = prefix != FINAL and any(map(self._has_final, UVRD_TASKS))

    def __enter__(self) -> "_Parts":
        return self

    def add(self, task: Task, pair: dict[str, Any]) -> None:
        self._rows[task].append(pair)
        if len(self._rows[task]) == self._part_rows:
            self._write(task)

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None or self._is_skipped:
            return
        for task in UVRD_TASKS:
            if self._rows[task]:
                self._write(task)
        for task in UVRD_TASKS:
            self._publish(task)

    def _folder(self, task: Task) -> str:
        return f"{self._root}/task={task.value}"

    def _files(self, task: Task) -> list[str]:
        selector = fs.FileSelector(self._folder(task), allow_not_found=True)
        return [info.base_name for info in self._fs.get_file_info(selector)]

    def _has_final(self, task: Task) -> bool:
        return any(name.startswith(FINAL) and not name.startswith(EARLY) for name in self._files(task))

    def _write(self, task: Task) -> None:
        rows, self._rows[task] = self._rows[task], []
        if self._is_skipped:
            return
        folder, name = self._folder(task), f"{self._prefix}{len(self._names[task]):05d}.parquet"
        self._fs.create_dir(folder, recursive=True)
        table = pa.Table.from_pylist(rows, schema=PAIR_SCHEMA)
        pq.write_table(table, f"{folder}/{_partial(name)}", filesystem=self._fs, compression="zstd")
        self._names[task].append(name)

    def _publish(self, task: Task) -> None:
        """Put the new files in the place of those of an earlier assembly, and of partial files of one that was killed.

        A pair is in one file at most at any moment.
        """
        folder, new = self._folder(task), {_partial(name): name for name in self._names[task]}
        for name in self._files(task):
            if name not in new and name.lstrip(".").startswith(self._prefix):
                self._fs.delete_file(f"{folder}/{name}")
        for name in new:
            self._fs.move(f"{folder}/{name}", f"{folder}/{new[name]}")


def _partial(name: str) -> str:
    return f".{name}.partial"  # readers skip names with a leading dot
