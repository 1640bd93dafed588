"""The contrastive loss. It takes embeddings and returns a scalar, independent of models, ranks and data sets.

It is the symmetric InfoNCE of arXiv:2510.27571, section 5: 0.5 * (query -> target + target -> query) at
temperature 0.03 over in-batch negatives; explicit hard negatives count in the query -> target direction
only. gather.py collects the batch from all ranks, so each rank computes one [N, N] product of the whole
batch (8 GFLOP for N = 1024, d = 2048; the model itself takes some 14,000 GFLOP per video).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.03


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The scalar to minimise, and the statistics that the paper logs, as float32 scalars without gradient.

    mean_score: mean cosine of every query with every target. mean_positive: mean cosine of the pairs.
    hardest_gap: cosine of the pair minus that of the hardest negative that is not masked, averaged over the
    queries that have one; NaN if none has.
    """

    value: Tensor
    mean_score: Tensor
    mean_positive: Tensor
    hardest_gap: Tensor


def info_nce(
    queries: Tensor,
    targets: Tensor,
    negatives: Tensor | None = None,
    *,
    pairs: Tensor | None = None,
    sources: Tensor | None = None,
    query_sources: Tensor | None = None,
    negative_sources: Tensor | None = None,
    temperature: float = TEMPERATURE,
    margin: float | None = None,
    dimensions: Sequence[int] = (),
) -> Loss:
    """Symmetric InfoNCE over N pairs.

    queries, targets: unit-norm [N, d]; row i of both is a pair. negatives: unit-norm [N, H, d], the hard
    negatives of query i. pairs, sources, query_sources: int64 [N], ids of the pair, of what its target shows
    (the video), and of its query; rows that share one are not used as negatives of each other, and a target
    is a positive of a query if any row pairs their sources. negative_sources: int64 [N, H]; a hard negative
    that is a positive of its query in this sense is ignored (this allows padding of a row).
    margin: a candidate that scores above its positive + margin is treated as a false negative and ignored;
    0.1 in the authors' released loss; None keeps all. dimensions: Matryoshka sizes; the loss is the mean
    over the embeddings cut to each size and normalised again. Empty: full size only.
    Raises ValueError on shapes or settings that do not fit.
    """
    _check(queries, targets, negatives, sources, negative_sources, temperature, dimensions)
    # Scores divided by 0.03 lose the third digit in bfloat16, so autocast is disabled.
    with torch.autocast(queries.device.type, enabled=False):
        q, t = queries.float(), targets.float()
        n = None if negatives is None else negatives.float()
        same = _same(len(q), pairs, sources, query_sources, q.device)  # bool [N, N]
        same_hard = (
            None if negatives is None else _same_hard(negatives, sources, query_sources, negative_sources)
        )
        losses = []
        for size in dimensions or (q.shape[1],):
            small = None if n is None else _cut(n, size)
            scores = _masked_scores(_cut(q, size), _cut(t, size), small, same, same_hard, margin)
            losses.append(_cross_entropy(*scores, temperature))
        return Loss(
            value=torch.stack(losses).mean(),
            **_statistics(q.detach(), t.detach(), n if n is None else n.detach(), same, same_hard, margin),
        )


def divergence(scores: Tensor, teacher: Tensor, *, temperature: float, teacher_temperature: float) -> Tensor:
    """Kullback-Leibler divergence of a student's distribution over candidates from the teacher's; mean of queries.

    scores, teacher: cosines of N queries with M candidates each, [N, M]; no gradient flows to the teacher's.
    """
    with torch.autocast(scores.device.type, enabled=False):
        return F.kl_div(
            F.log_softmax(scores.float() / temperature, dim=1),
            F.log_softmax(teacher.detach().float() / teacher_temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )


def _cross_entropy(forward: Tensor, hard: Tensor | None, backward: Tensor, temperature: float) -> Tensor:
    """Both directions of the loss, half each, from `_masked_scores`."""
    if hard is not None:
        forward = torch.cat([forward, hard], dim=1)  # [N, N + H]
    place = torch.arange(len(forward), device=forward.device)
    return 0.5 * (
        F.cross_entropy(forward / temperature, place) + F.cross_entropy(backward / temperature, place)
    )


def _masked_scores(
    q: Tensor, t: Tensor, n: Tensor | None, same: Tensor, same_hard: Tensor | None, margin: float | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Cosines query -> target [N, N], query -> own hard negatives [N, H], target -> query [N, N].

    What is no negative is -inf, which neither the softmax nor its gradient sees.
    """
    itself = torch.eye(len(q), dtype=torch.bool, device=q.device)
    scores = q @ t.T  # [N, N]
    hard = None if n is None else torch.einsum("nd,nhd->nh", q, n)  # [N, H]
    out_forward, out_backward, out_hard = same, same.T, same_hard
    if margin is not None:
        limit = scores.detach().diagonal()[:, None] + margin  # [N, 1]
        out_forward = same | ((scores.detach() > limit) & ~itself)
        out_backward = same.T | ((limit < scores.detach().T) & ~itself)
        if hard is not None and same_hard is not None:
            out_hard = same_hard | (hard.detach() > limit)
    none = float("-inf")
    if hard is not None and out_hard is not None:
        hard = hard.masked_fill(out_hard, none)
    return scores.masked_fill(out_forward, none), hard, scores.T.masked_fill(out_backward, none)


def _statistics(
    q: Tensor, t: Tensor, n: Tensor | None, same: Tensor, same_hard: Tensor | None, margin: float | None
) -> dict[str, Tensor]:
    """Compute the logged statistics from the full-size embeddings."""
    forward, hard, _ = _masked_scores(q, t, n, same, same_hard, margin)
    positive = forward.diagonal()
    others = forward.masked_fill(torch.eye(len(q), dtype=torch.bool, device=q.device), float("-inf"))
    candidates = others if hard is None else torch.cat([others, hard], dim=1)
    hardest = candidates.amax(dim=1)  # [N]; -inf where the masks left nothing
    return {
        "mean_score": q.mean(dim=0) @ t.mean(dim=0),  # = mean of all N * N cosines
        "mean_positive": positive.mean(),
        "hardest_gap": torch.where(hardest.isfinite(), positive - hardest, torch.nan).nanmean(),
    }


def _same(
    n: int, pairs: Tensor | None, sources: Tensor | None, query_sources: Tensor | None, device: torch.device
) -> Tensor:
    """bool [N, N]: target j is a positive of query i, or the rows share a pair id. False on the diagonal.

    Target j is a positive of query i if some row k has the query of row i and the source of row j.
    """
    itself = torch.eye(n, dtype=torch.bool, device=device)
    same_query, same_source, same_pair = (
        itself if ids is None else ids[:, None] == ids[None, :] for ids in (query_sources, sources, pairs)
    )
    # A matrix product of booleans; float32 is exact, as it counts at most N rows.
    same = (same_query.float() @ same_source.float() > 0) | same_pair
    return same & ~itself


def _same_hard(
    negatives: Tensor, sources: Tensor | None, query_sources: Tensor | None, negative_sources: Tensor | None
) -> Tensor:
    """bool [N, H]: a row with the same query has the source of this hard negative as its positive."""
    if sources is None or negative_sources is None:
        return torch.zeros(negatives.shape[:2], dtype=torch.bool, device=negatives.device)
    if query_sources is None:
        return negative_sources == sources[:, None]
    same_query = query_sources[:, None] == query_sources[None, :]  # [N, N]
    # One column at a time: all at once would take N * N * H.
    known = [(same_query & (column[:, None] == sources)).any(dim=1) for column in negative_sources.T]
    return torch.stack(known, dim=1)


def _cut(x: Tensor, size: int) -> Tensor:
    """Keep the first `size` dimensions and normalise again."""
    return x if size == x.shape[-1] else F.normalize(x[..., :size], dim=-1)


def _check(
    q: Tensor,
    t: Tensor,
    n: Tensor | None,
    sources: Tensor | None,
    negative_sources: Tensor | None,
    temperature: float,
    dimensions: Sequence[int],
) -> None:
    if q.ndim != 2 or q.shape != t.shape or not len(q):
        raise ValueError(f"queries {tuple(q.shape)}, targets {tuple(t.shape)}: give two of shape [N, d]")
    if n is not None and (n.ndim != 3 or (n.shape[0], n.shape[2]) != tuple(q.shape)):
        raise ValueError(f"negatives {tuple(n.shape)}: give [N, H, d] for N, d = {tuple(q.shape)}")
    if negative_sources is not None and (n is None or sources is None):
        raise ValueError("negative_sources: give negatives and sources with it")
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: use a positive number, e.g. {TEMPERATURE}")
    if wrong := [size for size in dimensions if not 0 < size <= q.shape[1]]:
        raise ValueError(f"dimensions={wrong}: embeddings have {q.shape[1]}; use sizes up to that")
