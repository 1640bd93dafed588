"""The training loop of one rank. It does not depend on Ray; it uses the process group, if there is one.

    Trainer(model, collate, datasets, curriculum, config, folder, prepare=prober).run()

In every epoch a prober scores the data sets, the curriculum turns scores into P(k), and the schedule turns P(k)
into steps. In every step items become chunks and embeddings, which are gathered over ranks for the loss. Each
step is seeded by its number, so a run that resumes from a checkpoint gives the same result as one without a stop.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from gve_ray.schema import Item
from gve_ray.store import SharedFolder
from gve_ray.training import checkpoint
from gve_ray.training.checkpoint import Best, Position
from gve_ray.training.config import LoopConfig, ValidationConfig
from gve_ray.training.curriculum import Alignment, Curriculum, EpochRecord, History
from gve_ray.training.feed import Mined, StepItems, ahead, items_of
from gve_ray.training.gather import barrier, gather_objects, rank, world_size
from gve_ray.training.mixture import DataSet
from gve_ray.training.optimiser import learning_rate, make_optimiser
from gve_ray.training.plan import EpochPlan, plan_epoch
from gve_ray.training.runlog import ScoreLog, StepLog
from gve_ray.training.schedule import Schedule, Step, hash_of, one_pass
from gve_ray.training.step import Chunk, Taught, backward

log = logging.getLogger(__name__)

Collate = Callable[[Sequence[Item]], list[Chunk]]


@dataclass(frozen=True, kw_only=True)
class Make:
    """Turn a step of the schedule into one rank's items and chunks. It is pickled to other processes.

    datasets: the mixture, by name. mined: the hard negatives mined for this epoch, by data set.
    """

    datasets: Mapping[str, DataSet]
    mined: Mapping[str, Mined]
    collate: Collate
    rank: int

    def __call__(self, step: Step) -> tuple[StepItems, list[Chunk]]:
        items = items_of(step, self.rank, self.datasets[step.dataset], self.mined.get(step.dataset))
        return items, self.collate(items.items)


class Feed(Protocol):
    """Call `make` on each step ahead of time; yield the results in order, each with the seconds waited."""

    def __call__(
        self, make: Make, inputs: Iterator[Step]
    ) -> Iterator[tuple[tuple[StepItems, list[Chunk]], float]]: ...


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Results of the prober for an epoch.

    prober: its name. alignments: of the probed pairs, by data set. mined: hard negatives by data set.
    """

    prober: str | None = None
    alignments: Mapping[str, Alignment] = dataclasses.field(default_factory=dict)
    mined: Mapping[str, Mined] = dataclasses.field(default_factory=dict)


class Prepare(Protocol):
    """Called by every rank before each epoch, and again when a run resumes within an epoch.

    The second call must return the same `mined`, so they are kept on disk: the weights have changed since.
    """

    def __call__(self, epoch: int) -> Probe: ...


class Trainer:
    """Trains all epochs on one rank.

    model: takes the batches of all chunks and returns unit-norm embeddings [rows, d]; wrapped in DDP if there
    are several ranks. collate: turns items with references into chunks. folder: holds the checkpoints, the
    same for all ranks. prepare: scores and mines; by default nothing. feed: prepares the steps, by default in
    threads of this process. on_step: called by every rank after each step. on_save: called by rank 0 before
    each checkpoint. on_epoch: called by rank 0 before each epoch, with what its tasks will get. teach: called by
    every rank with the items of each step, for distillation. validation: when to evaluate. validate: called by
    all ranks together; returns the scores of the model in training. on_scores: called by rank 0 with them. best:
    the best evaluation, once `run` has returned.
    """

    def __init__(
        self,
        model: nn.Module,
        collate: Collate,
        datasets: Mapping[str, DataSet],
        curriculum: Curriculum,
        config: LoopConfig,
        folder: SharedFolder,
        *,
        prepare: Prepare = lambda epoch: Probe(),
        feed: Feed = ahead,
        on_step: Callable[[StepLog], None] = lambda step: None,
        on_save: Callable[[], None] = lambda: None,
        on_epoch: Callable[[EpochPlan], None] = lambda plan: None,
        teach: Callable[[Sequence[Item]], Taught | None] = lambda items: None,
        validation: ValidationConfig = ValidationConfig(),  # noqa: B008 - it is frozen
        validate: Callable[[], Mapping[str, float]] = dict,
        on_scores: Callable[[ScoreLog], None] = lambda scores: None,
    ) -> None:
        self.model = model
        self.inner: nn.Module = getattr(model, "module", model)  # the model inside DDP
        self.collate, self.datasets, self.curriculum, self.config = collate, datasets, curriculum, config
        self.folder, self.prepare, self.feed = folder, prepare, feed
        self.on_step, self.on_save, self.on_epoch, self.teach = on_step, on_save, on_epoch, teach
        self.validation, self.validate, self.on_scores = validation, validate, on_scores
        self.best: Best | None = None
        self.world_size = world_size()
        self.rank = rank()
        self.optimiser = make_optimiser(self.inner, config.optimiser)
        self.n_pairs = {name: len(dataset.pairs) for name, dataset in datasets.items()}
        self.batch_sizes = {name: dataset.batch_size for name, dataset in datasets.items()}
        self.sizes = {name: dataset.size for name, dataset in datasets.items()}
        # All epochs have equally many steps, so the learning rate of each step is known in advance.
        self.steps = config.steps or one_pass(self.n_pairs, self.batch_sizes, self.world_size)

    def run(self) -> History:
        """Train from the newest complete checkpoint, or from the start, to the end of the last epoch.

        Raises FloatingPointError when the loss or the gradient is not finite; the checkpoints stay valid.
        """
        at, history = self._resume()
        for epoch in range(at.epoch, self.curriculum.epochs + 1):
            probe = self.prepare(epoch)
            history, record = self._decide(epoch, probe, history)
            schedule = Schedule(
                seed=self.config.seed,
                epoch=epoch,
                probabilities=record.datasets,
                sizes=self.n_pairs,
                batch_sizes=self.batch_sizes,
                world_size=self.world_size,
                length=self.steps,
            )
            at = dataclasses.replace(at, history=dataclasses.asdict(history))
            at = self._epoch(schedule, probe.mined, at)
            stops = self._is_exhausted(at)
            at = dataclasses.replace(at, epoch=self.curriculum.epochs + 1 if stops else epoch + 1, step=0)
            self._save(at)
            if stops:
                log.info(
                    "no better score in %d evaluations: training ends after step %d",
                    self.validation.patience,
                    at.total,
                )
                break
        self.best = at.best
        return history

    def _decide(self, epoch: int, probe: Probe, history: History) -> tuple[History, EpochRecord]:
        """Return P(k) of an epoch: from the checkpoint or else from the scores; all ranks use rank 0's."""
        record = history.of(epoch)
        if record is None:
            sizes, alignments = self.sizes, probe.alignments
            scores = self.curriculum.task_scores(sizes, alignments) if alignments else {}
            probabilities = self.curriculum.probabilities(
                epoch, sizes, scores=scores, first_scores=history.first_scores if epoch > 1 else scores
            )
            record = EpochRecord(
                epoch=epoch,
                sigma=self.curriculum.sigma_at(epoch),
                prober=probe.prober,
                scores=scores,
                probabilities=probabilities,
                datasets=self.curriculum.dataset_probabilities(sizes, probabilities),
            )
            # Scores of ranks may differ in the last digit, and then the steps would differ too.
            record = gather_objects(record)[0]
            history = history.add(record)
        if self.rank == 0:
            self.on_epoch(
                plan_epoch(
                    self.curriculum,
                    self.config,
                    epoch,
                    self.sizes,
                    self.batch_sizes,
                    ranks=self.world_size,
                    scores=record.scores,
                    probabilities=record.probabilities,
                )
            )
        return history, record

    def _epoch(self, schedule: Schedule, mined: Mapping[str, Mined], at: Position) -> Position:
        """Run the steps of an epoch from `at.step` on; return the position after the last."""
        self.model.train()
        make = Make(datasets=self.datasets, mined=mined, collate=self.collate, rank=self.rank)
        begun = time.monotonic()
        for (items, chunks), waited in self.feed(make, schedule.steps(at.step)):
            self._step(items, chunks, at, waited, begun)
            at = self._evaluate(dataclasses.replace(at, step=at.step + 1, total=at.total + 1))
            if self._is_exhausted(at):
                break
            if at.step < self.steps and at.total % self.config.save_steps == 0:
                self._save(at)
            begun = time.monotonic()
        return at

    def _evaluate(self, at: Position) -> Position:
        """Evaluate the model if it is time to, and keep its weights if they are the best so far."""
        every, is_last = self.validation.eval_steps, at.total == self.steps * self.curriculum.epochs
        if every is None or (at.total % every and not is_last):
            return at
        begun = time.monotonic()
        self.model.eval()
        scores = self.validate()
        self.model.train()
        score = scores[self.validation.metric]
        is_best = at.best is None or score > at.best.score
        if self.rank == 0:
            if is_best:
                checkpoint.save_best(self.folder, self.inner, at.total)
            seconds = time.monotonic() - begun
            self.on_scores(ScoreLog(step=at.total, scores=scores, is_best=is_best, seconds=seconds))
        if is_best:
            return dataclasses.replace(at, best=Best(step=at.total, score=score), evaluations_since_best=0)
        return dataclasses.replace(at, evaluations_since_best=at.evaluations_since_best + 1)

    def _is_exhausted(self, at: Position) -> bool:
        """Whether the scores have not improved for so long that training ends."""
        patience = self.validation.patience
        return patience is not None and at.evaluations_since_best >= patience

    def _step(self, items: StepItems, chunks: list[Chunk], at: Position, waited: float, begun: float) -> None:
        steps = self.steps * self.curriculum.epochs
        rate = learning_rate(at.total, steps, self.config.optimiser)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        torch.manual_seed(hash_of(self.config.seed, at.total, self.rank, n_bytes=8) % 2**63)  # dropout
        self.optimiser.zero_grad(set_to_none=True)
        loss = backward(
            self.model,
            chunks,
            items,
            self.config.loss,
            gradcache=self.config.gradcache,
            taught=self.teach(items.items),
        )
        trained = [weight for group in self.optimiser.param_groups for weight in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(trained, self.config.optimiser.clip))
        if not (math.isfinite(norm) and math.isfinite(float(loss.value))):
            kept = checkpoint.newest(self.folder)
            last_good = f"{self.folder.uri}/{kept.name}" if kept else "none yet"
            raise FloatingPointError(
                f"step {at.total + 1} ({items.step.dataset}): loss {float(loss.value)}, gradient norm {norm}; "
                f"stopped before the weights were touched. The last good checkpoint is {last_good}; "
                "lower optimiser.learning_rate, or look at this step's pairs"
            )
        self.optimiser.step()
        gap = float(loss.hardest_gap)
        seconds = time.monotonic() - begun
        self.on_step(
            StepLog(
                epoch=at.epoch,
                step=at.total + 1,
                of=steps,
                dataset=items.step.dataset,
                loss=float(loss.value),
                mean_score=float(loss.mean_score),
                mean_positive=float(loss.mean_positive),
                hardest_gap=None if math.isnan(gap) else gap,
                learning_rate=rate,
                gradient_norm=norm,
                pairs_per_second=len(items.step.rows) / seconds,
                tokens_per_second=sum(chunk.tokens for chunk in chunks) / seconds,
                data_wait=waited,
                seconds=seconds,
            )
        )

    def _resume(self) -> tuple[Position, History]:
        history = History(kind=self.curriculum.kind)
        start = Position(epoch=1, step=0, total=0, world_size=self.world_size, history={})
        path = checkpoint.newest(self.folder)
        if path is None:
            return start, history
        at = checkpoint.load(path, self.inner, self.optimiser)
        if at.world_size != self.world_size:
            # A schedule depends on the number of ranks: resume at the same fraction of the new schedule.
            before = self.config.steps or one_pass(self.n_pairs, self.batch_sizes, at.world_size)
            share = self.steps / before
            log.warning("continuing with %d ranks after %d", self.world_size, at.world_size)
            at = dataclasses.replace(
                at,
                world_size=self.world_size,
                step=round(at.step * share),
                total=round(at.total * share),
            )
        log.info(
            "continuing from %s/%s: epoch %d, %d steps done", self.folder.uri, path.name, at.epoch, at.total
        )
        return at, History.from_plain(at.history)

    def _save(self, at: Position) -> None:
        if self.rank == 0:
            self.on_save()
            checkpoint.save(self.folder, self.inner, self.optimiser, at, keep=self.config.keep)
        barrier()
