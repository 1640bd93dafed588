"""Run a whole training on one rank, from the config to the adapter. It needs Ray or torchrun only for many ranks.

    fit(config, "runs/x")      # under a process group of any size, or none

It writes checkpoints/, probes/, steps.jsonl and the trackers' files to the run's folder and, at the end,
adapter/ with the curriculum's history, and plots of the steps and the curriculum. Called again with the same
config and folder, it resumes. The pairs are copied to a temporary folder once per node. If the run's folder is
remote, the logs are uploaded before each checkpoint; that is enough, because later steps would be repeated
anyway.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gve_ray.config import resolve_model
from gve_ray.embedder import (
    Collator,
    Embedder,
    EmbedderSettings,
    GveModel,
    load_processor,
    load_torch_model,
    save_adapter,
)
from gve_ray.embedder.dtypes import default_dtype
from gve_ray.embedder.model import default_device
from gve_ray.schema import Item
from gve_ray.store import AssetReader, SharedFolder
from gve_ray.store.runfolder import plain
from gve_ray.training.checkpoint import load_best
from gve_ray.training.config import TrainingConfig
from gve_ray.training.curriculum import HISTORY_FILE, History
from gve_ray.training.encoder import Encoder, GveCollate, with_lora
from gve_ray.training.feed import ahead
from gve_ray.training.gather import barrier, rank, world_size
from gve_ray.training.hard_negatives import Embed
from gve_ray.training.loop import Feed, Trainer
from gve_ray.training.mixture import DataSet, load_mixture
from gve_ray.training.node import once_per_node
from gve_ray.training.pairs import check_references
from gve_ray.training.plan import EpochPlan
from gve_ray.training.plots import save_plots
from gve_ray.training.prober import EpochProber, open_helper
from gve_ray.training.runlog import SCORES_FILE, STEPS_FILE, EvaluationLog, RunLog, ScoreLog, StepLog
from gve_ray.training.step import Taught
from gve_ray.training.trackers import Trackers
from gve_ray.training.validation import ValidationSet, Validator, load_validation

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


def fit(
    config: TrainingConfig,
    output: str | os.PathLike[str],
    *,
    device: str | None = None,
    feed: Feed = ahead,
    outlets: Sequence[Callable[[StepLog], None]] = (),
    on_epoch: Callable[[EpochPlan], None] = lambda plan: log.info("%s", plan),
) -> History:
    """Train to the end of the last epoch and write `output`/adapter. Return the curriculum's history.

    output: the run's folder, a path or URI that all ranks see. device: of this rank; None selects the
    accelerator if there is one. feed: prepares the steps, by default in threads of this process. outlets:
    called by rank 0 with the log of every step, after the run log and the trackers. on_epoch: called by rank 0
    before each epoch, with what its tasks will get.
    Raises ValueError before the first step when pairs, references, model or settings do not fit.
    """
    folder = SharedFolder(output)
    trackers = Trackers(config.trackers, folder, plain(config))
    assets = AssetReader(config.assets) if config.assets else None

    def load(node_folder: Path) -> tuple[dict[str, DataSet], list[ValidationSet]]:
        datasets = load_mixture(config.data, node_folder, seed=config.loop.seed)
        check_references(
            (dataset.pairs for dataset in datasets.values()), assets.store.keys() if assets else set()
        )
        if config.validation.eval_steps is None:
            return datasets, []
        return datasets, load_validation(config.validation, node_folder / "validation", seed=config.loop.seed)

    with once_per_node(load) as (datasets, held_out):
        return _fit(config, folder, datasets, held_out, assets, trackers, device, feed, outlets, on_epoch)


def _fit(
    config: TrainingConfig,
    folder: SharedFolder,
    datasets: Mapping[str, DataSet],
    held_out: Sequence[ValidationSet],
    assets: AssetReader | None,
    trackers: Trackers,
    device: str | None,
    feed: Feed,
    outlets: Sequence[Callable[[StepLog], None]],
    on_epoch: Callable[[EpochPlan], None],
) -> History:
    """Train on the loaded mixture. All ranks return together."""
    settings = EmbedderSettings(**config.sequence_settings)
    model, processor, encoder = _load(config, device)
    wrapped = _over_ranks(config, encoder, device)
    collator = Collator(settings, processor, family=model.family, config=model.config)
    trained = Embedder.from_model(model, processor, settings)
    logs = _Logs(folder, trackers, outlets)
    trainer = Trainer(
        wrapped,
        GveCollate(collator, assets, token_budget=config.token_budget),
        datasets,
        config.curriculum,
        config.loop,
        folder.below("checkpoints"),
        prepare=_with_whole_weights(
            config,
            model,
            EpochProber(
                partial(_prober_of, config, model, trained, assets, device),
                datasets,
                folder.below("probes"),
                config.prober,
                needs_scores=config.curriculum.needs_scores,
                seed=config.loop.seed,
            ),
        ),
        feed=feed,
        on_step=logs.on_step,
        on_save=logs.publish,
        on_epoch=on_epoch,
        validation=config.validation,
        teach=_teacher(config, assets, device),
        validate=_with_whole_weights(
            config, model, Validator(held_out, partial(trained.embed, assets=assets))
        ),
        on_scores=logs.on_scores,
    )
    history = trainer.run()
    trackers.close()
    if rank() == 0:
        if trainer.best is not None:
            save_adapter(model, folder.path / "last", settings)
            folder.publish("last")
            load_best(folder.below("checkpoints"), encoder, trainer.best.step)
        adapter = save_adapter(model, folder.path / "adapter", settings)
        history.save(str(adapter / HISTORY_FILE))
        folder.publish("adapter", last=HISTORY_FILE)
        for picture in save_plots(folder.path, history):
            folder.publish(picture)
    barrier()
    return history


def _load(config: TrainingConfig, device: str | None) -> tuple[GveModel, Any, Encoder]:
    """Load the base model and its processor, and add LoRA."""
    base = resolve_model(config.model)
    processor = load_processor(base, revision=config.revision)
    model = load_torch_model(
        base,
        revision=config.revision,
        dtype=config.dtype or default_dtype(on_gpu=_device(device).type != "cpu"),
        # Weights that will be sharded may not fit one GPU.
        device="cpu" if _is_sharded(config) else device,
        attention=config.attention,
        load_in_4bit=config.load_in_4bit,
        processor=processor,
    )
    encoder = with_lora(
        model,
        **asdict(config.lora),
        seed=config.loop.seed,
        checkpointing=config.checkpointing,
        compile=config.compile,
    )
    return model, processor, encoder


def _is_sharded(config: TrainingConfig) -> bool:
    return config.sharded and world_size() > 1


def _device(device: str | None) -> torch.device:
    return torch.device(device) if device else default_device()


def _over_ranks(config: TrainingConfig, encoder: Encoder, device: str | None) -> nn.Module:
    """Wrap the encoder so that all ranks apply the same gradient."""
    if world_size() == 1:
        return encoder
    if _is_sharded(config):
        from gve_ray.training.sharding import shard  # imports FSDP2, which takes a second

        return shard(encoder, _device(device))
    # Buffers are constants of the model, so there is no need to send them before each forward pass.
    return DistributedDataParallel(encoder, broadcast_buffers=False)


def _with_whole_weights(config: TrainingConfig, model: GveModel, call: Callable[P, R]) -> Callable[P, R]:
    """Gather sharded weights while `call` runs, because its ranks run different batches."""
    if not _is_sharded(config):
        return call
    from gve_ray.training.sharding import whole

    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with whole(model):
            return call(*args, **kwargs)

    return wrapped


def _teacher(
    config: TrainingConfig, assets: AssetReader | None, device: str | None
) -> Callable[[Sequence[Item]], Taught | None]:
    """Return the function that embeds the items of a step with the teacher, if the config names one."""
    distillation = config.distillation
    if distillation.model is None:
        return lambda items: None
    embed = open_helper("distillation", distillation, assets, dtype=config.dtype, device=device)

    def teach(items: Sequence[Item]) -> Taught:
        return Taught(embeddings=embed(items), config=distillation)

    return teach


def _prober_of(
    config: TrainingConfig,
    model: GveModel,
    trained: Embedder,
    assets: AssetReader | None,
    device: str | None,
    epoch: int,
) -> tuple[str, Embed]:
    """Return the prober's name and embed function: the configured model in epoch 1, else the one in training
    (arXiv:2510.27571, section 5).
    """
    prober = config.prober
    if epoch == 1 and prober.model is not None:
        return prober.model, open_helper("prober", prober, assets, dtype=config.dtype, device=device)
    model.eval()  # disables dropout; the loop switches back to training mode
    name = config.model if epoch == 1 else f"checkpoint of epoch {epoch - 1}"
    return name, partial(trained.embed, assets=assets)


class _Logs:
    """The logs and trackers of a run, in its folder. Only rank 0 writes."""

    def __init__(
        self, folder: SharedFolder, trackers: Trackers, outlets: Sequence[Callable[[StepLog], None]]
    ) -> None:
        self._folder, self._trackers = folder, trackers
        self._listeners: list[Callable[[StepLog], None]] = []
        self._log_scores = EvaluationLog(folder.path / SCORES_FILE)
        if rank() == 0:
            for name in (STEPS_FILE, SCORES_FILE):
                if folder.exists(name):
                    folder.fetch(name)
            self._listeners = [RunLog(folder.path / STEPS_FILE), trackers, *outlets]

    def on_step(self, step: StepLog) -> None:
        for listener in self._listeners:
            listener(step)

    def on_scores(self, scores: ScoreLog) -> None:
        self._log_scores(scores)
        self._trackers.send_scores(scores)

    def publish(self) -> None:
        """Upload the logs if the run's folder is remote."""
        self._trackers.publish()
        for name in (STEPS_FILE, SCORES_FILE):
            if (self._folder.path / name).exists():
                self._folder.publish(name)
