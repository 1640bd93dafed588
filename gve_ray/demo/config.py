"""The config of the demo: `gve demo --config demo.yaml`."""

from dataclasses import dataclass
from typing import ClassVar

from gve_ray.config import check_numbers, number


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Run all jobs in miniature on this machine, on rendered videos whose content is known.

    folder: receives everything. videos: files in the raw corpus for synthesis. described: videos
    with descriptions, which training uses in addition to the synthesized pairs. heldout: videos that are
    indexed and searched, and that score the model before and after training. benchmark_scale: size
    of the miniature of UVRB relative to 580 videos and 800 queries. steps: training steps of each
    of three epochs. batch_size: pairs of a rank in a step; None: those of the training recipe.
    prober_pairs: pairs of each task that score it for the curriculum. queries:
    searches over HTTP of each kind (text, image, video, composed).
    """

    job: ClassVar[str] = "demo"

    folder: str = "runs/demo"
    seed: int = number(42, at_least=0)
    videos: int = number(320, at_least=40)
    described: int = number(1200, at_least=40)
    heldout: int = number(400, at_least=10)
    benchmark_scale: float = number(1.0, above=0, at_most=1.5)
    steps: int = number(50, at_least=1)
    batch_size: int | None = number(None, at_least=2)
    prober_pairs: int = number(100, at_least=1)
    queries: int = number(50, at_least=1)

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.queries > self.heldout:
            raise ValueError(f"queries={self.queries}: at most one for each of heldout={self.heldout} videos")
