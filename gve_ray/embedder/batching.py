"""Which items share a forward pass: pure, given their lengths."""

from collections.abc import Sequence


def plan_batches(
    lengths: Sequence[int], visual: Sequence[bool], *, token_budget: int, max_rows: int
) -> list[list[int]]:
    """Indices of each batch, padded tokens (rows * longest) within `token_budget`.

    Longest first, so that running out of memory shows at once and padding is small; text-only items
    apart from visual ones, whose batches are bound by the vision tower. A single item longer than the
    budget gets a batch of its own.
    """
    batches: list[list[int]] = []
    for kind in (True, False):
        order = sorted((i for i in range(len(lengths)) if visual[i] is kind), key=lambda i: (-lengths[i], i))
        while order:
            rows = max(1, min(max_rows, token_budget // max(lengths[order[0]], 1)))
            batches.append(order[:rows])
            order = order[rows:]
    return batches
