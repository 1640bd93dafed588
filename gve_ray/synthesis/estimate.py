"""What the whole input would take, estimated from a trial run on a few of its videos.

A stage takes the time of its start once, and then the same time for each row. Its share of rows is
taken from the trial: if half of the videos reach the captioner there, half of all will. So are the answers of an
endpoint and their tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pyarrow import fs

from gve_ray.stage import StagePace
from gve_ray.store.runfolder import filesystem
from gve_ray.synthesis.spending import spending_text


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """The time of one stage for the whole input, and the GPU hours of its actors meanwhile."""

    name: str
    hours: float
    gpu_hours: float


@dataclass(frozen=True, kw_only=True)
class EndpointEstimate:
    """What a captioner behind an endpoint takes for the whole input. cost: of the tokens; None without prices."""

    answers: int
    prompt_tokens: int
    output_tokens: int
    cost: float | None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the whole input takes on the cluster of the trial.

    videos: of the whole input; trial: of them, those that the trial has run. stages: those that run on
    actors; the others take seconds. gigabytes: of the output, and of the folder of decoded videos.
    cost: of the GPU hours, in the unit of the given price; None without a price. too_small: stages of
    which the trial had one batch only, so that the time of their start counts for every row. at_once: the
    stages run at the same time, on parts of the input; the actors of each hold their GPUs all the time.
    endpoint: of a captioner behind an endpoint.
    """

    videos: int
    trial: int
    stages: Sequence[StageEstimate]
    gigabytes: float
    cost: float | None
    too_small: Sequence[str] = ()
    at_once: bool = False
    endpoint: EndpointEstimate | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Estimate":
        """Return the estimate that `to_dict` has written."""
        given = {option.name: values[option.name] for option in fields(cls) if option.name in values}
        endpoint = given.get("endpoint")
        given["stages"] = [StageEstimate(**stage) for stage in given["stages"]]
        return cls(**given | {"endpoint": endpoint and EndpointEstimate(**endpoint)})

    @property
    def hours(self) -> float:
        """The time of all stages one after the other, or of the slowest if they run at the same time."""
        hours = [stage.hours for stage in self.stages]
        return max(hours, default=0.0) if self.at_once else sum(hours)

    @property
    def gpu_hours(self) -> float:
        """GPU hours of all stages."""
        return sum(stage.gpu_hours for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as plain values, for run.json."""
        return asdict(self) | {"hours": self.hours, "gpu_hours": self.gpu_hours}

    def __str__(self) -> str:
        longest = sorted(self.stages, key=lambda stage: -stage.hours)[:3]
        parts = ", ".join(f"{stage.name} {_time(stage.hours)}" for stage in longest)
        text = f"all {self.videos:,} videos would take {_time(self.hours)} here ({parts}), {self.gigabytes:,.1f} GB"
        if self.gpu_hours:
            text += f", {self.gpu_hours:,.1f} GPU hours"
            text += "" if self.cost is None else f" for {self.cost:,.2f}"
        if self.endpoint:
            text += f", {spending_text(asdict(self.endpoint))}"
        if self.gpu_hours and self.cost is not None and self.endpoint and self.endpoint.cost is not None:
            text += f", together {self.cost + self.endpoint.cost:,.2f}"
        text += f"; measured on {self.trial:,} of them"
        if self.too_small:
            text += f", too few for {', '.join(self.too_small)}: raise the limit, or that is far too much"
        return text


def estimate(
    *,
    videos: int,
    trial: int,
    paces: Mapping[str, StagePace],
    gpus: Mapping[str, float],
    size: int,
    price: float | None,
    at_once: bool = False,
    spending: Mapping[str, Any] | None = None,
) -> Estimate | None:
    """Estimate the whole of `videos` from a trial on some of them; None if the trial has run no stage now.

    paces: of each stage that has run rows in this run. gpus: of all actors of a stage. size: bytes
    that the trial has written. price: of a GPU hour. at_once: see `Estimate`. spending: of the trial, as in
    run.json, if its captioner is behind an endpoint.
    """
    if not paces or not trial:
        return None
    factor = videos / trial
    hours = {
        name: ((pace.start_seconds or 0.0) + pace.row_seconds * pace.rows * factor) / 3600
        for name, pace in paces.items()
    }
    held = {name: max(hours.values()) if at_once else own for name, own in hours.items()}
    stages = [
        StageEstimate(name=name, hours=own, gpu_hours=held[name] * gpus.get(name, 0.0))
        for name, own in hours.items()
    ]
    gpu_hours = sum(stage.gpu_hours for stage in stages)
    return Estimate(
        videos=videos,
        trial=trial,
        stages=stages,
        gigabytes=size * factor / 1e9,
        cost=None if price is None else gpu_hours * price,
        too_small=[name for name, pace in paces.items() if pace.start_seconds is None],
        at_once=at_once,
        endpoint=None if spending is None else _whole(spending, factor),
    )


def _whole(spending: Mapping[str, Any], factor: float) -> EndpointEstimate:
    counts = {name: round(spending[name] * factor) for name in ("answers", "prompt_tokens", "output_tokens")}
    return EndpointEstimate(**counts, cost=None if spending["cost"] is None else spending["cost"] * factor)


def size_of(folders: Sequence[str]) -> int:
    """Return the bytes of all files in folders (paths or URIs), of which none contains another."""
    total = 0
    for folder in folders:
        files, path = filesystem(folder)
        selector = fs.FileSelector(path, allow_not_found=True, recursive=True)
        total += sum(info.size or 0 for info in files.get_file_info(selector) if info.is_file)
    return total


def _time(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    if hours < 2:
        return f"{hours * 60:.0f} min"
    return f"{hours:,.1f} h" if hours < 100 else f"{hours / 24:,.1f} days"
