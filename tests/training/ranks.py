"""The processes of tests/training/test_gather.py. Each runs a small encoder on its slice of a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gve_ray.schema import Item
from gve_ray.store import SharedFolder
from gve_ray.training.checkpoint import trained_weights
from gve_ray.training.config import LoopConfig, OptimiserConfig
from gve_ray.training.curriculum import Curriculum
from gve_ray.training.gather import gather
from gve_ray.training.gradcache import backward_in_chunks
from gve_ray.training.loop import Trainer
from gve_ray.training.loss import Loss, info_nce
from gve_ray.training.pairs import Pair
from gve_ray.training.runlog import StepLog
from gve_ray.training.validation import ValidationSet, Validator, retrieval_set
from tests.training import tiny

PAIRS, HARD, WIDTH, SIZE = 12, 2, 5, 8  # 12 pairs split evenly over 1, 2 and 3 ranks


@dataclass(frozen=True, kw_only=True)
class Case:
    hard: bool = False
    masks: bool = False
    chunk: int | None = None  # rows per chunk of GradCache; None: one backward pass


CASES = [
    Case(hard=hard, masks=masks, chunk=chunk)
    for hard in (False, True)
    for masks in (False, True)
    for chunk in (None, 5)
]


def encoder() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, SIZE)).double()


def world(case: Case) -> dict[str, Tensor]:
    """Return the whole batch. With masks, rows 1 and 5 show the same video, rows 2 and 9 are the same pair, rows
    3 and 10 have the same query, one hard negative shows the same video as its positive, and one of row 3 shows
    that of row 10. Rows 3 and 10 are on different ranks if there are several.
    """
    drawn = torch.Generator().manual_seed(2)
    inputs = {
        "queries": torch.randn(PAIRS, WIDTH, generator=drawn, dtype=torch.float64),
        "targets": torch.randn(PAIRS, WIDTH, generator=drawn, dtype=torch.float64),
    }
    if case.hard:
        inputs["negatives"] = torch.randn(PAIRS, HARD, WIDTH, generator=drawn, dtype=torch.float64)
    if case.masks:
        inputs["pairs"], inputs["sources"] = torch.arange(PAIRS), torch.arange(PAIRS)
        inputs["query_sources"] = torch.arange(PAIRS)
        inputs["pairs"][9], inputs["sources"][5], inputs["query_sources"][10] = 2, 1, 3
        if case.hard:
            inputs["negative_sources"] = torch.full((PAIRS, HARD), -1)
            inputs["negative_sources"][4, 1] = 4
            inputs["negative_sources"][3, 0] = 10
    return inputs


def gradients(
    model: nn.Module, case: Case, inputs: dict[str, Tensor], collect: Callable[..., list[Tensor]]
) -> tuple[Loss, list[Tensor]]:
    """Return loss and gradients of one pass over `inputs`, all of the batch or a slice, gathered by `collect`."""
    names = [name for name in ("queries", "targets", "negatives") if name in inputs]
    ids = {name: inputs[name] for name in inputs if name not in names}
    shapes = [(*inputs[name].shape[:-1], SIZE) for name in names]
    rows = torch.cat([inputs[name].reshape(-1, WIDTH) for name in names])

    def encode(chunk: Tensor) -> Tensor:
        return nn.functional.normalize(model(chunk), dim=-1)

    def loss_of(embeddings: Tensor) -> Loss:
        counts = [torch.Size(shape[:-1]).numel() for shape in shapes]
        mine = [part.reshape(shape) for part, shape in zip(embeddings.split(counts), shapes, strict=True)]
        whole = dict(zip([*names, *ids], collect(*mine, *ids.values()), strict=True))
        return info_nce(**whole, temperature=0.3, margin=0.1 if case.masks else None)

    if case.chunk is None:
        loss = loss_of(encode(rows))
        loss.value.backward()
    else:
        free = {"no_sync": model.no_sync} if isinstance(model, DistributedDataParallel) else {}
        loss = backward_in_chunks(rows.split(case.chunk), encode, loss_of, **free)
    return loss, [weight.grad for weight in model.parameters() if weight.grad is not None]


def plain_gather(*parts: Tensor) -> list[Tensor]:
    """Gather as is often done, but wrong: a plain all_gather, in which this rank's rows are put back."""
    gathered = []
    for part in parts:
        slots = [torch.empty_like(part) for _ in range(dist.get_world_size())]
        dist.all_gather(slots, part.detach())
        slots[dist.get_rank()] = part
        gathered.append(torch.cat(slots))
    return gathered


def whole_run(folder: Path, size: int) -> tuple[list[tuple[str, float]], dict[str, Tensor]]:
    """Run a short training; return data set and learning rate of each step, and the weights at the end."""
    model: nn.Module = tiny.Letters()
    logs: list[StepLog] = []
    trainer = Trainer(
        DistributedDataParallel(model) if dist.is_initialized() else model,
        tiny.collate,
        tiny.datasets(folder, ranks=size, batches=(12, 6)),
        Curriculum(kind="proportional", epochs=2),
        LoopConfig(optimiser=OptimiserConfig(learning_rate=0.01), gradcache=True, save_steps=5),
        SharedFolder(folder / "checkpoints"),
        on_step=logs.append,
    )
    trainer.run()
    return [(log.dataset, log.learning_rate) for log in logs], trained_weights(model)


def validation_scores() -> dict[str, float]:
    """Return the scores of seven pairs; the query of the last one has the direction of the first target."""
    texts = [(f"q {i % 6}", f"t {i}") for i in range(7)]
    pairs = [Pair(pair_id=q, query=Item(text=q), target=Item(text=t), negatives=()) for q, t in texts]

    def embed(items: Sequence[Item]) -> np.ndarray:
        return np.eye(7, dtype=np.float32)[[int(str(item.text)[-1]) for item in items]]

    sets = [ValidationSet(data=retrieval_set("pairs", pairs[1:]), metric="hit@1")]
    return Validator(sets, embed)()


def rank_main(rank: int, size: int, folder: str) -> None:
    """Run every case, then batches of unequal size, then a whole run; the last rank saves the results."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=size, timeout=timedelta(seconds=600)
    )
    results: dict[str, object] = {}
    for i, (case, collect) in enumerate([*((case, gather) for case in CASES), (CASES[0], plain_gather)]):
        share = PAIRS // size
        mine = {name: part[rank * share : (rank + 1) * share] for name, part in world(case).items()}
        loss, grads = gradients(DistributedDataParallel(encoder()), case, mine, collect)
        results[str(i)] = (loss.value.detach(), loss.hardest_gap, grads)
    try:
        gather(torch.zeros(2 + rank, 3))
    except ValueError as error:
        results["unequal"] = str(error)
    results[f"order {rank}"] = gather(torch.tensor([rank]), torch.tensor([[float(rank)]]))
    results["run"] = whole_run(Path(folder), size)
    results["scores"] = validation_scores()
    if rank == size - 1:  # any rank would do; the last one shows that results are not right on rank 0 only
        torch.save(results, Path(folder) / "results.pt")
    dist.destroy_process_group()
