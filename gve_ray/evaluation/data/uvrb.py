"""The UVRB benchmark as data: the task, metric, prompt and expected size of each of its data sets."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

from gve_ray.evaluation.data.dataset_folder import is_folder

TASKS = ("TXT", "CMP", "VIS")
MEASURED = ("CG", "S", "T", "PR", "LC", "CMP", "VIS")  # the abilities that data sets measure directly


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One data set of a benchmark (arXiv:2510.27571, tables 4 and 5).

    task: query format, TXT (text), CMP (text with an image or a video) or VIS (image or video
    alone). domain: CG, FG or LC, only for TXT; subdomain: S, T or PR, only for FG. modality: what a
    query consists of, e.g. "text+image". metric: a metric name that `metrics.score` accepts.
    prompt: instruction of the queries; the corpus never has one. n_queries, n_corpus: expected
    sizes. candidates: whether each query ranks only its own list of items; n_corpus is then the
    length of that list.
    """

    name: str
    task: str
    domain: str | None
    subdomain: str | None
    modality: str
    metric: str
    prompt: str | None
    n_queries: int
    n_corpus: int
    candidates: bool = False

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"{self.name}: task={self.task!r}; use one of {', '.join(TASKS)}")
        if self.ability not in MEASURED or (self.task != "TXT" and self.domain):
            raise ValueError(
                f"{self.name}: {self.task}, {self.domain}, {self.subdomain}; only TXT has a domain, CG, LC or FG, "
                "and FG needs a subdomain S, T or PR"
            )

    @property
    def ability(self) -> str:
        """The finest ability this data set measures: CG, S, T, PR, LC, CMP or VIS."""
        return self.subdomain or self.domain or self.task


class PackagedSpecs(Mapping[str, DatasetSpec]):
    """Specs by name from a CSV in evaluation/data, in file order; read on first use."""

    def __init__(self, file: str) -> None:
        self.file = file

    @cached_property
    def _specs(self) -> dict[str, DatasetSpec]:
        return {spec.name: spec for spec in map(_spec, packaged_rows(self.file))}

    def __getitem__(self, name: str) -> DatasetSpec:
        return self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


UVRB = PackagedSpecs("uvrb_datasets.csv")

# Where a data set may lie below the root; the published archives contain `UVRB/<name>`.
_PLACES = ("{name}", "{name}/UVRB/{name}", "UVRB/{name}", "{name}/{name}")


def find_data_sets(root: str) -> dict[str, str]:
    """Return the folders of UVRB's data sets below a folder or URI, by name in the order of `UVRB`.

    The first of the possible places that has a folder `jsonl` counts. A folder of the right name
    without one is returned as well, so that reading it says what it lacks.
    """
    found = {}
    for name in UVRB:
        places = [f"{root.rstrip('/')}/{place.format(name=name)}" for place in _PLACES]
        if not any(is_folder(place) for place in (places[0], places[2])):
            continue
        path = next((place for place in places if is_folder(f"{place}/jsonl")), places[0])
        if is_folder(path):
            found[name] = path
    return found


def packaged_rows(file: str) -> list[dict[str, str]]:
    """The rows of a CSV in evaluation/data; lines that start with # are comments."""
    text = (files("gve_ray.evaluation.data") / file).read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def _spec(row: Mapping[str, str]) -> DatasetSpec:
    return DatasetSpec(
        name=row["name"],
        task=row["task"],
        domain=row["domain"] or None,
        subdomain=row["subdomain"] or None,
        modality=row["modality"],
        metric=row["metric"],
        prompt=row["prompt"] or None,
        n_queries=int(row["n_queries"]),
        n_corpus=int(row["n_corpus"]),
        candidates=row["candidates"] == "1",
    )
