"""The torch engine: forms batches by a token budget and halves them if memory runs out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gve_ray.embedder.batching import plan_batches
from gve_ray.embedder.collate import Batch, Collator, Encoded, lengths_and_cuts
from gve_ray.embedder.embeddings import Embeddings, Finished
from gve_ray.embedder.model import GveModel
from gve_ray.schema import Item

log = logging.getLogger(__name__)

CPU_TOKENS = 8_192
GPU_TOKENS = 65_536
MAX_ROWS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """Encoded items, and the padded batches they form, each with the indices of its rows."""

    rows: list[Encoded]
    batches: list[tuple[list[int], Batch]]


class TorchEngine:
    """Embeds items whose media are in memory with a `GveModel`. An `embedder.Engine`."""

    def __init__(self, model: GveModel, collator: Collator, *, token_budget: int | None = None) -> None:
        self.model, self.collator, self.dimension = model, collator, model.dimension
        on_cpu = model.device.type == "cpu"
        self.token_budget = token_budget or (CPU_TOKENS if on_cpu else GPU_TOKENS)

    def prepare(self, items: Sequence[Item]) -> Prepared:
        """Encode items, form batches and pad them, all on the CPU. items: with media in memory."""
        rows = self.collator.encode(items)
        visual = [row.image is not None or row.video is not None for row in rows]
        lengths = [len(row) for row in rows]
        plan = plan_batches(lengths, visual, token_budget=self.token_budget, max_rows=MAX_ROWS)
        return Prepared(
            rows=rows, batches=[(where, self.collator.pad([rows[i] for i in where])) for where in plan]
        )

    @torch.inference_mode()
    def encode(self, prepared: Prepared, finished: Finished) -> Embeddings:
        """Return the embeddings of the prepared items, in order. finished: see `Embedder.encode`."""
        rows = prepared.rows
        vectors = np.empty((len(rows), self.dimension), dtype=np.float32)
        for where, batch in prepared.batches:
            vectors[where] = self._run([rows[i] for i in where], batch).cpu().numpy()
            finished(len(where))
        return Embeddings(vectors=vectors, **lengths_and_cuts(rows))

    def close(self) -> None:
        """Do nothing: the model runs in this process."""

    def _run(self, rows: list[Encoded], batch: Batch) -> Tensor:
        """Return the vectors of one batch, [B, d].

        If memory runs out, embeds both halves separately and lowers the token budget of later
        batches.
        """
        try:
            vectors: Tensor | None = self.model(batch.to(self.model.device))
        except torch.OutOfMemoryError as error:
            if len(rows) == 1:
                raise torch.OutOfMemoryError(
                    f"one item of {len(rows[0])} tokens does not fit in memory; use fewer frames, a smaller "
                    f"max_pixels or a larger device ({error})"
                ) from error
            vectors = None
        if vectors is not None:
            return vectors
        # After the handler, because the traceback would keep the activations of the failed batch
        # alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = (len(rows) + 1) // 2
        self.token_budget = max(half * max(len(row) for row in rows), 1)
        log.warning(
            "out of memory with %d rows; continuing with %d tokens per batch", len(rows), self.token_budget
        )
        halves = (rows[:half], rows[half:])
        return torch.cat([self._run(half_rows, self.collator.pad(half_rows)) for half_rows in halves])
