"""Turn annotations into training pairs for all seven tasks (arXiv:2510.27571, Table 7).

    result = assemble(annotations, "runs/x/uvrd", config=AssembleConfig(), seed=42)

No model runs here, and a rerun writes the same bytes. Each annotated video yields candidate pairs;
each task keeps up to its quota of them, those with the smallest hash of (seed, task, pair id). Rows
are read in the order of video ids, so the output does not depend on the order of commits. There are two
passes over the pairs. Those of up to `_IN_MEMORY` videos, as a part has, stay in memory (2 kB a video);
of more videos they are made a second time, and memory use is 8 bytes per candidate. Table 7's quotas are
shares: if `scale` is unset they are scaled so that T2V takes all its candidates. A task with too few
candidates stays below its quota, and the counts show it.

While the parts of a larger input still come, each part leaves a separate set, with its share of the
quotas, in files `part-early-*`. The last part replaces them all by the pairs of the whole input.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from gve_ray.progress import Progress
from gve_ray.schema import PAIR_SCHEMA, UVRD_TASKS, Task
from gve_ray.stage import StageCounts
from gve_ray.store import Store
from gve_ray.store.runfolder import filesystem
from gve_ray.synthesis.config import AssembleConfig
from gve_ray.synthesis.pairs import COLUMNS, candidates, pair_ids, ranks_of
from gve_ray.synthesis.stages import Stage, SynthesisRun

FINAL, EARLY = "part-", "part-early-"  # prefixes of the files of pairs
_BATCH = 8192  # videos
_IN_MEMORY = 20_000  # videos
_PART_ROWS = 20_000


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
    total = annotations.count() if ids is None else len(ids)
    passes = 1 if total <= _IN_MEMORY else 2
    progress = Progress("assemble", passes * total)
    done = 0

    def offered() -> Iterator[dict[Task, pa.RecordBatch]]:
        nonlocal done
        for videos in annotations.select(ids, COLUMNS, rows=_BATCH, by_key=True):
            yield candidates(videos, seed, config)
            done += videos.num_rows
            progress.reach(done)

    made = list(offered()) if total <= _IN_MEMORY else None
    ranks: dict[Task, list[np.ndarray]] = {task: [] for task in UVRD_TASKS}  # of each batch
    for batch in made or offered():
        for task, pairs in batch.items():
            ranks[task].append(ranks_of(seed, task, pair_ids(task, pairs)))
    available = {task: sum(map(len, ranks[task])) for task in UVRD_TASKS}
    targets = quotas(config, available)
    cuts = {task: _cut(ranks[task], targets[task]) for task in UVRD_TASKS}
    written = dict.fromkeys(UVRD_TASKS, 0)
    with _Parts(out, part_rows, prefix) as parts:
        for number, batch in enumerate(made or offered()):
            for task, pairs in batch.items():
                kept = pairs.filter(pa.array(ranks[task][number] <= cuts[task]))
                parts.add(task, kept.add_column(0, "pair_id", pa.array(pair_ids(task, kept), pa.string())))
                written[task] += kept.num_rows
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


def _cut(ranks: Sequence[np.ndarray], quota: int) -> int:
    """Return the largest rank among the `quota` smallest; -1 for none. ranks: uint64 [n] of each batch."""
    if quota <= 0 or not sum(map(len, ranks)):
        return -1
    values = np.concatenate(ranks)
    if quota >= len(values):
        return int(values.max())
    return int(np.partition(values, quota - 1)[quota - 1])


class _Parts:
    """Writes the Parquet files of all tasks. They get their final names when all are complete."""

    def __init__(self, out: str, part_rows: int, prefix: str) -> None:
        self._fs, self._root = filesystem(out)
        self._part_rows, self._prefix = part_rows, prefix
        self._pairs = dict.fromkeys(UVRD_TASKS, PAIR_SCHEMA.empty_table())
        self._names: dict[Task, list[str]] = {task: [] for task in UVRD_TASKS}
        self._is_skipped = prefix != FINAL and any(map(self._has_final, UVRD_TASKS))

    def __enter__(self) -> "_Parts":
        return self

    def add(self, task: Task, pairs: pa.RecordBatch) -> None:
        self._pairs[task] = pa.concat_tables([self._pairs[task], pa.Table.from_batches([pairs])])
        while self._pairs[task].num_rows >= self._part_rows:
            self._write(task)

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None or self._is_skipped:
            return
        for task in UVRD_TASKS:
            if self._pairs[task].num_rows:
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
        pairs, self._pairs[task] = (
            self._pairs[task].slice(0, self._part_rows),
            self._pairs[task].slice(self._part_rows),
        )
        if self._is_skipped:
            return
        folder, name = self._folder(task), f"{self._prefix}{len(self._names[task]):05d}.parquet"
        self._fs.create_dir(folder, recursive=True)
        path = f"{folder}/{_partial(name)}"
        pq.write_table(pairs.combine_chunks(), path, filesystem=self._fs, compression="zstd")
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
