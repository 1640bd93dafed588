"""Turn annotations into training pairs for all seven tasks (arXiv:2510.27571, Table 7).

    result = assemble(annotations, "runs/x/uvrd", config=AssembleConfig(), seed=42)

No model runs here, and a rerun writes the same bytes. Each annotated video yields candidate pairs;
each task keeps up to its quota of them, those with the smallest hash of (seed, task, pair id). There
are two passes over annotations.lance. The second is in the order of video ids, so the output does not
depend on the order of commits. Memory use is 8 bytes per candidate and one chunk of rows. Table 7's
quotas are shares: if `scale` is unset they are scaled so that T2V takes all its candidates. A task
with too few candidates stays below its quota, and the counts show it.
"""

import hashlib
import math
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    """Write the training pairs of a run below `output`/uvrd."""
    config = run.config
    assembled = assemble(run.annotations, f"{config.output}/uvrd", config=config.assemble, seed=config.seed)
    run.pairs = {task.value: counts.pairs for task, counts in assembled.tasks.items()}
    return assembled.counts


def assemble(
    annotations: Store, out: str, *, config: AssembleConfig, seed: int, part_rows: int = _PART_ROWS
) -> Assembled:
    """Write `out`/task=*/part-*.parquet (`PAIR_SCHEMA`), each file atomically; drops parts of an earlier run.

    out: local folder or any URI of pyarrow's filesystems.
    """
    begun = time.monotonic()
    progress = Progress("assemble, two passes", 2 * annotations.count())
    ids: list[str] = []
    ranks: dict[Task, array[int]] = {task: array("Q") for task in UVRD_TASKS}
    for batch in annotations.batches(COLUMNS, rows=_CHUNK):
        for row in batch.to_pylist():
            ids.append(row["video_id"])
            for task, pair in candidates(row, seed, config):
                ranks[task].append(_rank(seed, task, pair))
        progress.reach(len(ids))
    available = {task: len(ranks[task]) for task in UVRD_TASKS}
    targets = quotas(config, available)
    cuts = {task: _cut(ranks[task], targets[task]) for task in UVRD_TASKS}
    written = dict.fromkeys(UVRD_TASKS, 0)
    with _Parts(out, part_rows) as parts:
        ids.sort()
        for start in range(0, len(ids), _CHUNK):
            for row in annotations.take(ids[start : start + _CHUNK], COLUMNS).to_pylist():
                for task, pair in candidates(row, seed, config):
                    if _rank(seed, task, pair) <= cuts[task]:
                        parts.add(task, pair)
                        written[task] += 1
            progress.reach(min(start + _CHUNK, len(ids)) + len(ids))
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
    """Writes the Parquet parts of all tasks. A file gets its final name only when it is complete."""

    def __init__(self, out: str, part_rows: int) -> None:
        self._fs, self._root = filesystem(out)
        self._part_rows = part_rows
        self._rows: dict[Task, list[dict[str, Any]]] = {task: [] for task in UVRD_TASKS}
        self._names: dict[Task, list[str]] = {task: [] for task in UVRD_TASKS}

    def __enter__(self) -> "_Parts":
        return self

    def add(self, task: Task, pair: dict[str, Any]) -> None:
        self._rows[task].append(pair)
        if len(self._rows[task]) == self._part_rows:
            self._write(task)

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None:
            return
        for task in UVRD_TASKS:
            if self._rows[task]:
                self._write(task)
            self._remove_others(task)

    def _folder(self, task: Task) -> str:
        return f"{self._root}/task={task.value}"

    def _write(self, task: Task) -> None:
        folder, name = self._folder(task), f"part-{len(self._names[task]):05d}.parquet"
        self._fs.create_dir(folder, recursive=True)
        partial = f"{folder}/.{name}.partial"  # readers skip names with a leading dot
        table = pa.Table.from_pylist(self._rows[task], schema=PAIR_SCHEMA)
        pq.write_table(table, partial, filesystem=self._fs, compression="zstd")
        self._fs.move(partial, f"{folder}/{name}")
        self._names[task].append(name)
        self._rows[task] = []

    def _remove_others(self, task: Task) -> None:
        """Delete parts of an earlier assembly and partial files of one that was killed."""
        selector = fs.FileSelector(self._folder(task), allow_not_found=True)
        for info in self._fs.get_file_info(selector):
            if info.base_name not in self._names[task]:
                self._fs.delete_file(info.path)
