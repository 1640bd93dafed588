"""What a training run will do, from sizes and scores alone: steps, passes and learning rate of each task.

    plan = plan_run(config)                # no GPU, and no model is loaded
    print(plan)                            # `gve train --config gve-3b.yaml --plan`

A task that is hardly trained, or repeated many times, shows here before any GPU hour is spent. The
steps are those that the run with the same scores, seed and number of ranks would draw.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from gve_ray.job import PreflightError
from gve_ray.schema import UVRD_PAIRS, Task
from gve_ray.training.config import DataSetConfig, LoopConfig, TrainingJobConfig
from gve_ray.training.curriculum import Alignment, Curriculum, DataSetSize
from gve_ray.training.mixture import batch_size_of, count_pairs, named_tasks
from gve_ray.training.optimiser import learning_rate
from gve_ray.training.schedule import Schedule, one_pass

FEW_PASSES, MANY_PASSES = 0.2, 10.0  # outside of these, the plan warns

# Mean cosines of pairs and of mismatched pairs, where none are given: those of the paper in miniature
# before training, by the prober of its recipe (docs/LOG.md, 2026-11-29).
ASSUMED_ALIGNMENTS = {
    Task.T2T: Alignment(positive=0.641, mismatched=0.195),
    Task.T2I: Alignment(positive=0.386, mismatched=0.136),
    Task.T2V: Alignment(positive=0.397, mismatched=0.050),
    Task.TI2V: Alignment(positive=0.704, mismatched=0.123),
    Task.TV2V: Alignment(positive=0.869, mismatched=0.116),
    Task.I2V: Alignment(positive=0.735, mismatched=0.129),
    Task.V2V: Alignment(positive=0.878, mismatched=0.107),
}
_TYPICAL = Alignment(positive=0.659, mismatched=0.122)  # their mean, for a format that the miniature lacks


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a task or a data set gets in one epoch.

    steps: its steps. pairs: pairs over all ranks. passes: over its data. lr_share: its share of the
    learning rate summed over all steps of the run.
    """

    steps: int
    pairs: int
    passes: float
    lr_share: float


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """The plan of one epoch.

    scores, probabilities, tasks: R_k, P(k) and the share of each task. datasets: the share of each data
    set. members: the data sets of each task.
    """

    epoch: int
    sigma: float
    scores: Mapping[str, float]
    probabilities: Mapping[str, float]
    tasks: Mapping[str, Share]
    datasets: Mapping[str, Share]
    members: Mapping[str, Sequence[str]]

    def warnings(self) -> list[str]:
        """Return a sentence for each task that is hardly trained or repeated many times."""
        return [
            f"epoch {self.epoch}: {name} is passed over {share.passes:.2f} times; "
            + (
                "most of its pairs stay unused"
                if share.passes < FEW_PASSES
                else "the model may memorise its pairs"
            )
            for name, share in self.tasks.items()
            if not FEW_PASSES <= share.passes <= MANY_PASSES
        ]

    def __str__(self) -> str:
        """A table with a row for each task, and below it one for each of its data sets if it has several."""
        lines = [
            f"epoch {self.epoch}" + (f", sigma {self.sigma:.2f}" if self.scores else ""),
            f"  {'task':<26}{'R_k':>7}{'P(k)':>7}{'steps':>8}{'pairs':>13}{'passes':>8}{'lr':>8}",
        ]
        for task, share in self.tasks.items():
            score = f"{self.scores[task]:7.3f}" if task in self.scores else f"{'-':>7}"
            lines.append(f"  {task:<26}{score}{self.probabilities[task]:>7.3f}{_row(share)}")
            names = self.members[task]
            if len(names) > 1:
                lines += [f"    {name:<24}{'':>14}{_row(self.datasets[name])}" for name in names]
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings())])


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The plan of a run.

    sizes: pairs by data set. assumed: the formats whose R_k is assumed. ranks: their number. gpu_hours: of
    all steps, if the speed is known.
    """

    epochs: Sequence[EpochPlan]
    sizes: Mapping[str, int]
    assumed: Sequence[str]
    ranks: int
    gpu_hours: float | None

    def to_json(self) -> str:
        """Return `{"epochs": [{TASK: {"steps", "pairs", "passes", "lr_share"}}], ...}`."""
        return json.dumps(
            {
                "epochs": [
                    {task: asdict(share) for task, share in epoch.tasks.items()} for epoch in self.epochs
                ],
                "datasets": [
                    {name: asdict(share) for name, share in epoch.datasets.items()} for epoch in self.epochs
                ],
                "sizes": dict(self.sizes),
                "scores": [dict(epoch.scores) for epoch in self.epochs],
                "assumed_scores": list(self.assumed),
                "ranks": self.ranks,
                "gpu_hours": self.gpu_hours,
                "warnings": [warning for epoch in self.epochs for warning in epoch.warnings()],
            },
            indent=1,
        )

    def __str__(self) -> str:
        """The tables of all epochs, and the sums."""
        steps = [sum(share.steps for share in epoch.tasks.values()) for epoch in self.epochs]
        pairs = sum(share.pairs for epoch in self.epochs for share in epoch.tasks.values())
        hours = "" if self.gpu_hours is None else f", about {self.gpu_hours:,.0f} GPU hours"
        lines = [str(epoch) for epoch in self.epochs]
        lines.append(
            f"{len(self.sizes)} data sets of {sum(self.sizes.values()):,} pairs; {sum(steps):,} steps of {self.ranks} "
            f"ranks, {pairs:,} pairs{hours}"
        )
        if self.assumed:
            lines.append(f"R_k is assumed for {', '.join(self.assumed)}; give measured ones in --plan.scores")
        return "\n".join(lines)


def plan_run(config: TrainingJobConfig) -> RunPlan:
    """Plan a run from the sizes of its data sets and from given or assumed scores R_k.

    Sizes come from the data if they exist, else from `plan.sizes`, from `sample`, or from Table 7 of the
    paper. Raises PreflightError when a size is not known, or the mixture cannot be trained.
    """
    curriculum, ranks = config.curriculum, config.resources.workers
    ranks = config.plan.workers if isinstance(ranks, str) else ranks
    try:
        datasets, batches = _data_sets(config)
        alignments = {
            name: _alignment(name, dataset.format, config.plan.scores) for name, dataset in datasets.items()
        }
        scores = curriculum.task_scores(datasets, alignments) if curriculum.needs_scores else {}
        epochs = []
        for epoch in range(1, curriculum.epochs + 1):
            probabilities = curriculum.probabilities(epoch, datasets, scores=scores, first_scores=scores)
            epochs.append(
                plan_epoch(
                    curriculum,
                    config.loop,
                    epoch,
                    datasets,
                    batches,
                    ranks=ranks,
                    scores=scores,
                    probabilities=probabilities,
                )
            )
    except (ValueError, OSError) as error:
        raise PreflightError(str(error)) from error
    pairs = sum(share.pairs for epoch in epochs for share in epoch.tasks.values())
    rate = config.plan.pairs_per_second
    given = set(config.plan.scores)
    return RunPlan(
        epochs=epochs,
        sizes={name: dataset.pairs for name, dataset in datasets.items()},
        assumed=sorted(
            {dataset.format for name, dataset in datasets.items() if not given & {name, dataset.format}}
            if curriculum.needs_scores
            else ()
        ),
        ranks=ranks,
        gpu_hours=None if rate is None else round(pairs / rate / 3600, 1),
    )


def plan_epoch(
    curriculum: Curriculum,
    config: LoopConfig,
    epoch: int,
    datasets: Mapping[str, DataSetSize],
    batches: Mapping[str, int],
    *,
    ranks: int,
    scores: Mapping[str, float],
    probabilities: Mapping[str, float],
) -> EpochPlan:
    """Count the steps that an epoch draws.

    datasets, batches: sizes and pairs per rank and step, by data set. scores, probabilities: R_k and P(k) by task.
    """
    sizes = {name: dataset.pairs for name, dataset in datasets.items()}
    schedule = Schedule(
        seed=config.seed,
        epoch=epoch,
        probabilities=curriculum.dataset_probabilities(datasets, probabilities),
        sizes=sizes,
        batch_sizes=batches,
        world_size=ranks,
        length=config.steps or one_pass(sizes, batches, ranks),
    )
    draws, total = schedule.draws(), len(schedule) * curriculum.epochs
    rates = np.array([learning_rate(step, total, config.optimiser) for step in range(total)])
    in_epoch = rates[(epoch - 1) * len(schedule) : epoch * len(schedule)]
    shares = {}
    for name in sorted(datasets):
        drawn = (
            draws == schedule.datasets.index(name)
            if name in schedule.datasets
            else np.zeros(len(draws), bool)
        )
        steps = int(drawn.sum())
        pairs = steps * (schedule.batch_size(name) * ranks if steps else 0)
        lr_share = float(in_epoch[drawn].sum() / rates.sum())
        shares[name] = Share(steps=steps, pairs=pairs, passes=pairs / sizes[name], lr_share=lr_share)
    members = curriculum.members(datasets)
    return EpochPlan(
        epoch=epoch,
        sigma=curriculum.sigma_at(epoch),
        scores=scores,
        probabilities=probabilities,
        tasks={
            task: _sum([shares[name] for name in names], sum(sizes[name] for name in names))
            for task, names in members.items()
        },
        datasets=shares,
        members=members,
    )


def _sum(shares: Sequence[Share], size: int) -> Share:
    pairs = sum(share.pairs for share in shares)
    return Share(
        steps=sum(share.steps for share in shares),
        pairs=pairs,
        passes=pairs / size,
        lr_share=sum(share.lr_share for share in shares),
    )


def _row(share: Share) -> str:
    return f"{share.steps:>8}{share.pairs:>13,}{share.passes:>8.2f}{share.lr_share:>8.3f}"


def _data_sets(config: TrainingJobConfig) -> tuple[dict[str, DataSetSize], dict[str, int]]:
    """Return the size and the batch size of every data set of the mixture, by name."""
    datasets: dict[str, DataSetSize] = {}
    batches: dict[str, int] = {}
    for source in config.data:
        sizes = count_pairs(source)
        for name, task in named_tasks(source).items():
            pairs = _size(source, name, task, config.plan.sizes) if sizes is None else sizes.get(name, 0)
            batches[name] = batch_size_of(source, task)
            datasets[name] = DataSetSize(
                format=task, pairs=pairs, weight=source.weight, batch_size=batches[name]
            )
    return datasets, batches


def _size(source: DataSetConfig, name: str, task: Task, given: Mapping[str, int]) -> int:
    """Return the assumed number of pairs of data that do not exist yet. Raises ValueError if it is unknown."""
    table_7 = UVRD_PAIRS.get(task) if source.format == "pairs" else None
    known = [size for size in (given.get(name), table_7) if size is not None][:1]
    sizes = [size for size in (*known, source.sample) if size is not None]
    if not sizes:
        raise ValueError(
            f"data.{source.name}.uri={source.uri}: not there, and its size is not known; give it as "
            f"--plan.sizes.{name} N or in data.{source.name}.sample"
        )
    return min(sizes)


def _alignment(name: str, task: str, given: Mapping[str, float]) -> Alignment:
    """Return the alignment of a data set: given by its name or its format, or that of the miniature."""
    if (score := given.get(name, given.get(task))) is not None:
        return Alignment(positive=score, mismatched=0.0)
    return ASSUMED_ALIGNMENTS.get(Task(task), _TYPICAL)
