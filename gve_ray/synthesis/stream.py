"""Run the stages of synthesis on the parts of a manifest, several parts at the same time.

    entries = Stream(shared, stages, split(manifest, config), record=print).run()

Each part goes through the stages in their order. While one part is captioned, the next is decoded: the
actors of a stage take the rows of the lowest part first, and go on with those of the next without a
pause. At most `parts_ahead` parts follow the first unfinished one, so decoding cannot run away from the
captioner. A stage that is `in_order` takes one part at a time, in their order, so what it decides
depends on the parts before, and never on time.

With a single part this is one stage after the other. So it is, part by part, where the actors of all
stages do not fit on the cluster at the same time; the result is the same.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from gve_ray.stage import StageCounts, StageError
from gve_ray.stage.tokens import TokenCounts
from gve_ray.synthesis.config import SynthesisConfig
from gve_ray.synthesis.stages import SharedState, Stage, SynthesisRun

log = logging.getLogger(__name__)

Entry = Mapping[str, Any]  # of a stage in run.json


def order_of(manifest: pa.Table, *, seed: int) -> np.ndarray:
    """Return the rows of a manifest in the order in which they run, int64 [n], which is that of a hash of the ids.

    So each part is a sample of the whole, and a trial run on the first rows is as well.
    """
    ids = (video_id.as_py() for video_id in manifest["video_id"])
    ranks = b"".join(hashlib.sha256(f"{seed}:{video_id}".encode()).digest() for video_id in ids)
    return np.argsort(np.frombuffer(ranks, dtype="S32"), kind="stable")


def split(manifest: pa.Table, config: SynthesisConfig) -> list[pa.Table]:
    """Return the parts of a manifest, of nearly the same size, each with its rows in the manifest's order.

    With `config.limit`, only the first rows in the order of `order_of`, in the parts that they have in the
    whole.
    """
    total = manifest.num_rows
    count, end = config.parts(total), min(total, config.limit or total)
    if count == 1 and end == total:
        return [manifest]
    order = order_of(manifest, seed=config.seed)
    cuts = [total * i // count for i in range(count + 1)]
    return [
        manifest.take(np.sort(order[start : min(stop, end)])) for start, stop in pairwise(cuts) if start < end
    ]


class Stream:
    """Runs all parts through all stages.

    record: called with the entries of all stages for run.json, whenever a part has passed a stage.
    passed: called with a stage that the last part has passed. finished: called with each part that has
    passed all stages, and with the entries; if the last stage is `in_order`, in the order of parts.
    """

    def __init__(
        self,
        shared: SharedState,
        stages: Sequence[Stage],
        parts: Sequence[pa.Table],
        *,
        record: Callable[[Sequence[Entry]], None],
        passed: Callable[[Stage], None] = lambda stage: None,
        finished: Callable[[SynthesisRun, Sequence[Entry]], None] = lambda run, entries: None,
    ) -> None:
        self._shared, self._stages = shared, stages
        self._record, self._passed, self._finished = record, passed, finished
        self._parts = parts
        self._tallies = {stage.name: _Tally(stage) for stage in stages}
        self._turn = threading.Condition()
        self._next = {stage.name: 0 for stage in stages if stage.in_order}  # the part whose turn it is
        self._error: BaseException | None = None

    def run(self) -> list[Entry]:
        """Run all parts, and return the entries of all stages for run.json.

        Raises the error of the first stage that fails, after the others have stopped.
        """
        self._open()
        try:
            if self._shared.at_once:
                self._run_at_once()
            else:
                for part in range(len(self._parts)):
                    self._run_part(part)
        except BaseException as error:
            self._stop(error)
            raise
        for stage in self._stages:
            self._shared.close(stage)
        return self._entries()

    def _open(self) -> None:
        """Open the runners of all stages before any works: opening deletes what is not committed."""
        self._shared.read_earlier()
        for stage in self._stages:
            self._shared.open(self._run_of(0), stage)

    def _run_of(self, part: int) -> SynthesisRun:
        """Return the state of a part that has not begun. It is dropped when the part is finished."""
        return SynthesisRun(
            config=self._shared.config,
            manifest=self._parts[part],
            part=part,
            parts=len(self._parts),
            shared=self._shared,
        )

    def _run_at_once(self) -> None:
        with ThreadPoolExecutor(1 + self._shared.config.parts_ahead, "part") as threads:
            running = [threads.submit(self._run_part, part) for part in range(len(self._parts))]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
            except BaseException as error:
                self._stop(error)
                raise
            finally:
                for future in running:
                    future.cancel()
        if self._error is not None:
            raise self._error

    def _run_part(self, part: int) -> None:
        run = self._run_of(part)
        try:
            for stage in self._stages:
                self._run_stage(run, stage)
        except BaseException as error:
            self._stop(error)
            raise

    def _run_stage(self, run: SynthesisRun, stage: Stage) -> None:
        self._wait_for_turn(run, stage)
        tally = self._tallies[stage.name]
        tally.begin()
        counts = None
        try:
            counts = stage.run(run, stage)
        finally:
            tally.end()
        if counts is not None:
            with self._turn:
                tally.add(counts)
                self._record(self._entries())
        is_last = run.part == len(self._parts) - 1
        if len(self._parts) == 1:
            self._shared.close(stage)
        elif not self._shared.at_once:
            self._shared.pause(stage)
        if is_last:
            self._passed(stage)
        if stage is self._stages[-1]:
            self._finished(run, self._entries())
        if stage.in_order:
            with self._turn:
                self._next[stage.name] += 1
                self._turn.notify_all()

    def _wait_for_turn(self, run: SynthesisRun, stage: Stage) -> None:
        """Wait until a stage may begin with a part. Raises StageError if another stage has failed."""
        with self._turn:
            self._turn.wait_for(
                lambda: self._error is not None or self._next.get(stage.name, run.part) == run.part
            )
        if self._error is not None:
            raise StageError(f"stage {stage.name}: stopped, because another stage failed")

    def _stop(self, error: BaseException) -> None:
        """Make all parts stop. Only the first call has an effect."""
        with self._turn:
            if self._error is not None:
                return
            self._error = error
            self._turn.notify_all()
        self._shared.fail(StageError("stopped, because another stage failed"))

    def _entries(self) -> list[Entry]:
        return [entry for tally in self._tallies.values() if (entry := tally.entry())]


class _Tally:
    """The counts of a stage over all parts so far, and the seconds in which any part was in it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._counts: tuple[int, int, int] | None = None  # in, out, rejected
        self._tokens: TokenCounts | None = None
        self._lock = threading.Lock()
        self._inside, self._since, self._seconds = 0, 0.0, 0.0

    def begin(self) -> None:
        with self._lock:
            if not self._inside:
                self._since = time.monotonic()
            self._inside += 1

    def end(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._seconds += time.monotonic() - self._since

    def add(self, counts: StageCounts) -> None:
        new = counts.n_in, counts.n_out, counts.n_rejected
        if self._counts is not None and not self._stage.is_cumulative:
            new = tuple(map(sum, zip(self._counts, new, strict=True)))  # type: ignore[assignment]
        self._counts = new
        self._tokens = counts.tokens or self._tokens

    def entry(self) -> Entry | None:
        """Return the entry of run.json. Its seconds and tokens are of the run that wrote it."""
        if self._counts is None:
            return None
        with self._lock:
            seconds = self._seconds + (time.monotonic() - self._since if self._inside else 0.0)
        n_in, n_out, n_rejected = self._counts
        return {
            "name": self._stage.name,
            "unit": self._stage.unit,
            "in": n_in,
            "out": n_out,
            "rejected": n_rejected,
            "seconds": round(seconds, 3),
            **({} if self._tokens is None else {"tokens": self._tokens.to_dict()}),
        }
