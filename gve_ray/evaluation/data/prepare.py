"""`gve uvrb prepare`: unpack a downloaded UVRB, and compare what is there with the paper's tables.

    preparation = prepare_uvrb("uvrb")
    print(preparation)               # a table; preparation.is_complete

Each data set's numbers of queries and of corpus items are compared with table 4 of
arXiv:2510.27571, and each item's media must exist. Media are not decoded; `gve evaluate --check`
does that.
"""

import dataclasses
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from gve_ray.evaluation.data.archives import UnpackedArchive, unpack_archives
from gve_ray.evaluation.data.data_errors import DataError
from gve_ray.evaluation.data.dataset_folder import open_folder
from gve_ray.evaluation.data.layouts import load
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.data.uvrb import UVRB, DatasetSpec, find_data_sets

log = logging.getLogger(__name__)

_SHOWN = 3  # errors of a data set in the printed table; the JSON has all


@dataclass(frozen=True, kw_only=True)
class DataSetState:
    """One data set as found. Sizes count usable queries and corpus items; expected: those of the paper.

    n_corpus: for a data set in which each query has its own candidates, the length of the longest
    list. folder: None if there is no such folder. errors: one line each.
    """

    name: str
    folder: str | None
    n_queries: int = 0
    n_corpus: int = 0
    expected_queries: int
    expected_corpus: int
    errors: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """complete, incomplete, other sizes, or missing."""
        if self.folder is None:
            return "missing"
        if self.errors:
            return "incomplete"
        sizes, expected = (self.n_queries, self.n_corpus), (self.expected_queries, self.expected_corpus)
        return "complete" if sizes == expected else "other sizes"


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The archives and data sets below a root folder. `str()` gives a table, `to_json()` everything."""

    root: str
    archives: tuple[UnpackedArchive, ...]
    data_sets: tuple[DataSetState, ...]

    @property
    def is_complete(self) -> bool:
        """Whether all 16 data sets have the paper's sizes and all their media, and no archive failed."""
        return all(each.state == "complete" for each in self.data_sets) and not any(
            archive.error for archive in self.archives
        )

    def to_json(self) -> str:
        """Everything as JSON."""
        data_sets = [{**dataclasses.asdict(each), "state": each.state} for each in self.data_sets]
        archives = [dataclasses.asdict(archive) for archive in self.archives]
        facts = {
            "root": self.root,
            "complete": self.is_complete,
            "archives": archives,
            "data_sets": data_sets,
        }
        return json.dumps(facts, indent=1)

    def __str__(self) -> str:
        lines = [
            f"{'data set':<14}{'state':<13}{'queries':>8}{'of':>8}{'corpus':>8}{'of':>8}  folder",
            *(
                f"{each.name:<14}{each.state:<13}{each.n_queries:>8}{each.expected_queries:>8}"
                f"{each.n_corpus:>8}{each.expected_corpus:>8}  {each.folder or '-'}"
                for each in self.data_sets
            ),
        ]
        for each in self.data_sets:
            lines += each.errors[:_SHOWN]
            if len(each.errors) > _SHOWN:
                lines.append(f"{each.name}: {len(each.errors) - _SHOWN} more errors; --json shows all")
        lines += [f"archive {each.parts[0]}: {each.error}" for each in self.archives if each.error]
        n_complete = sum(each.state == "complete" for each in self.data_sets)
        unpacked = sum(archive.is_new for archive in self.archives)
        lines.append(
            f"{n_complete} of {len(self.data_sets)} data sets are complete; archives: {len(self.archives)}, "
            f"of which {unpacked} were unpacked now"
        )
        return "\n".join(lines)


def prepare_uvrb(root: str) -> Preparation:
    """Unpack all archives below a local folder, and count what its data sets contain.

    Raises ValueError if the folder does not exist.
    """
    if not Path(root).is_dir():
        raise ValueError(f"{root!r}: no such folder; name the one into which UVRB was downloaded")
    archives = []
    for archive in unpack_archives(root):
        archives.append(archive)
        outcome = archive.error or f"{archive.files} files" + ("" if archive.is_new else ", unpacked before")
        log.info("%s: %s", archive.parts[0], outcome)
    folders = find_data_sets(root)
    return Preparation(
        root=root,
        archives=tuple(archives),
        data_sets=tuple(_state(spec, folders.get(name)) for name, spec in UVRB.items()),
    )


def _state(spec: DatasetSpec, folder: str | None) -> DataSetState:
    data = load(folder, name=spec.name) if folder else None
    return DataSetState(
        name=spec.name,
        folder=folder,
        n_queries=len(data.queries) if data else 0,
        n_corpus=_corpus_size(data) if data else 0,
        expected_queries=spec.n_queries,
        expected_corpus=spec.n_corpus,
        errors=(*map(str, data.skipped), *_missing_media(data)) if data else _missing(spec),
    )


def _corpus_size(data: RetrievalSet) -> int:
    if data.candidates is None:
        return len(data.corpus)
    return max(map(len, data.candidates.values()), default=0)


def _missing_media(data: RetrievalSet) -> list[str]:
    """One line for each medium that is neither a file nor a folder of frames, in the order of the items."""
    media = {
        medium: None
        for item in (*data.queries, *data.corpus)
        for medium in (item.image, item.video)
        if isinstance(medium, str)
    }
    missing = [path for path in media if not (os.path.isfile(path) or open_folder(path).has_pictures(""))]
    what = "missing: no such file, and no folder of frames"
    return [str(DataError(dataset=data.name, where=path, what=what)) for path in missing]


def _missing(spec: DatasetSpec) -> tuple[str, ...]:
    error = DataError(dataset=spec.name, where="root", what="there is no folder of this name; download it")
    return (str(error),)
