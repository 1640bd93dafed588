"""Plan which items share a forward pass, given the lengths of their sequences."""

from collections.abc import Sequence


def plan_batches(
    lengths: Sequence[int], visual: Sequence[bool], *, token_budget: int, max_rows: int
) -> list[list[int]]:
    """Return the indices of each batch, with padded tokens (rows * longest) within `token_budget`.

    lengths: tokens of each item. visual: whether each item has media. Longest items come first, so
    that padding is small and running out of memory shows at once. Text-only items and visual items
    are in separate batches, because the vision tower dominates the time of the latter. An item that
    is longer than the budget gets its own batch.
    """
    batches: list[list[int]] = []
    for kind in (True, False):
        order = sorted((i for i in range(len(lengths)) if visual[i] is kind), key=lambda i: (-lengths[i], i))
        while order:
            rows = max(1, min(max_rows, token_budget // max(lengths[order[0]], 1)))
            batches.append(order[:rows])
            order = order[rows:]
    return batches
