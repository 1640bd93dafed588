"""Start the processes of ranks quickly: one server process imports all that they need, and forks them.

    start_ranks(ranks.rank_main, (folder,), 2)                                # waits, and raises what a rank raises
    processes = start_ranks(ranks.rank_main, (folder,), 2, join=False)

The tests that use it run in one process (tests/conftest.py), so that there is one server.
"""

from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

_MODULES = (
    *(f"tests.training.{name}" for name in ("mining_ranks", "node_ranks", "ranks", "sharding_ranks")),
    # What these import only when they need it.
    "matplotlib.pyplot",
    "obstore",
    "peft",
    "transformers.models.auto.processing_auto",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "transformers.models.qwen2_5_vl.processing_qwen2_5_vl",
    "transformers.models.qwen2_vl.image_processing_qwen2_vl",
    "transformers.models.qwen2_vl.video_processing_qwen2_vl",
)


def start_ranks(
    main: Callable[..., None], arguments: tuple[Any, ...], size: int, *, join: bool = True
) -> Any:
    """Call `main(rank, *arguments)` in `size` processes."""
    mp.get_context("forkserver").set_forkserver_preload(list(_MODULES))
    return mp.start_processes(main, arguments, nprocs=size, join=join, start_method="forkserver")
