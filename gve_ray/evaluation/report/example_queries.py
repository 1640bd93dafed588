"""Selects a model's best and worst queries for the report, with frames of their results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.scores.ranking import read_trec
from gve_ray.media import DecodeProcess, FrameRequest, MediaError, encode_jpeg
from gve_ray.media.source import raise_storage_fault
from gve_ray.report import picture
from gve_ray.schema import Item

THUMBNAIL = (160, 120)  # pixels of a frame; 28 queries with 12 frames each stay below 3 MB
QUALITY = 70
_DECODED = 96 * 28 * 28  # pixels of a frame before it is made a thumbnail
_LEAST = 28 * 28
_WORDS, _MORE_WORDS = 55, 500  # of a text, shown at first and on demand; long texts have thousands
Row = Mapping[str, Any]  # of per_query.parquet


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An item as the page shows it.

    text, more: the beginning of its text and the continuation. rest: number of words after these.
    pictures: frames as data URIs. fault: why it has no pictures.
    """

    name: str
    text: str = ""
    more: str = ""
    rest: int = 0
    pictures: Sequence[str] = ()
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One item of a ranking. role: e.g. "found". rank: None if it is beyond the ranks kept."""

    role: str
    is_right: bool
    rank: int | None
    score: float | None
    item: Shown


@dataclass(frozen=True, kw_only=True)
class Example:
    """One query with the top result and the expected one. ranks: of the first positive, by model."""

    is_good: bool
    dataset: str
    query: Shown
    answers: Sequence[Answer]
    ranks: Sequence[tuple[str, int | None]]


def choose(rows: Sequence[Row], n: int) -> tuple[list[Row], list[Row]]:
    """Choose the n best and the n worst queries of one model, taking turns between data sets.

    Queries that the model could not read have no results to show, and are not chosen.

    Best: a positive is at rank 1, ordered by its margin over the first negative. Worst: the first
    positive is not at rank 1, ordered by its rank (latest first), then by the score range of the
    ranking. Ties keep the order of the rows. rows: of per_query.parquet.
    """
    rows = [row for row in rows if row["top"]]
    best = _in_turn([row for row in rows if row["first_rank"] == 1], _margin, n)
    worst = _in_turn([row for row in rows if row["first_rank"] != 1], _lateness, n)
    return best, worst


def examples(
    chosen: Sequence[Row],
    rows: Sequence[Row],
    sets: Mapping[str, RetrievalSet],
    runs: Path,
    *,
    frames: int,
) -> list[Example]:
    """Collect what the page shows of the chosen rows.

    rows: of all models. runs: the folder of the model's TREC files.
    """
    ranks: dict[tuple[str, str], list[tuple[str, int | None]]] = {
        (row["dataset"], row["query_id"]): [] for row in chosen
    }
    for row in rows:
        if (key := (row["dataset"], row["query_id"])) in ranks:
            ranks[key].append((row["model"], row["first_rank"]))
    with DecodeProcess() as process:  # a file that crashes its decoder must not crash the run
        reader = _Reader(process, frames)
        return [
            _example(row, sets[row["dataset"]], reader, runs, ranks[row["dataset"], row["query_id"]])
            for row in chosen
        ]


def _margin(row: Row) -> float:
    """Negated margin of the top score over the first negative's; 0 without a negative."""
    right = set(row["positives"])
    wrong = [score for name, score in zip(row["top"], row["top_scores"], strict=True) if name not in right]
    return -(row["top_scores"][0] - wrong[0]) if wrong else 0.0


def _lateness(row: Row) -> tuple[float, float]:
    rank = row["first_rank"]
    return -(rank if rank is not None else float("inf")), row["top_scores"][-1] - row["top_scores"][0]


def _in_turn(rows: Sequence[Row], key: Callable[[Row], Any], n: int) -> list[Row]:
    """The first n rows by key, one per data set in turn."""
    queues: dict[str, list[Row]] = {}
    for row in sorted(rows, key=key):
        queues.setdefault(row["dataset"], []).append(row)
    turns = [queue[i] for i in range(n) for queue in queues.values() if i < len(queue)]
    return turns[:n]


def _example(
    row: Row, data: RetrievalSet, reader: "_Reader", runs: Path, ranks: Sequence[tuple[str, int | None]]
) -> Example:
    """The result at rank 1 and the expected item; for a hit, the first negative instead."""

    def answer(role: str, is_right: bool, rank: int | None, score: float | None, name: str) -> Answer:
        item = reader.show(name, data.corpus[data.corpus_ids.index(name)])
        return Answer(role=role, is_right=is_right, rank=rank, score=score, item=item)

    right, top, scores, query = set(row["positives"]), row["top"], row["top_scores"], row["query_id"]
    is_good = top[0] in right
    answers = [answer("found and wanted" if is_good else "found", is_good, 1, scores[0], top[0])]
    if is_good:
        wrong = [i for i, name in enumerate(top) if name not in right]
        answers += [answer("first wrong one", False, i + 1, scores[i], top[i]) for i in wrong[:1]]
    else:
        name, score, rank = min(right), None, row["first_rank"]
        if rank is not None and rank <= len(top):
            name, score = top[rank - 1], scores[rank - 1]
        elif rank is not None:
            name, score = read_trec(runs / f"{row['dataset']}.trec", {query: rank})[query]
        answers.append(answer("wanted", True, rank, score, name))
    shown_query = reader.show(query, data.queries[data.query_ids.index(query)])
    return Example(is_good=is_good, dataset=row["dataset"], query=shown_query, answers=answers, ranks=ranks)


class _Reader:
    """Prepares items for the page; each medium is read once."""

    def __init__(self, process: DecodeProcess, frames: int) -> None:
        self._process = process
        self._plan = [FrameRequest(k=frames)]
        self._seen: dict[tuple[str, str], Sequence[str]] = {}

    def show(self, name: str, item: Item) -> Shown:
        """An item's words and pictures, or a message for what cannot be read."""
        words = (item.text or "").split()
        pictures: list[str] = []
        faults = []
        for part in ("video", "image"):
            medium = getattr(item, part)
            if medium is None:
                continue
            try:
                pictures += self._pictures(part, medium)
            except (MediaError, OSError, ValueError, MemoryError) as error:
                raise_storage_fault(error)
                faults.append(f"no pictures of this {part}: {error}")
        return Shown(
            name=name,
            text=" ".join(words[:_WORDS]),
            more=" ".join(words[_WORDS : _WORDS + _MORE_WORDS]),
            rest=max(0, len(words) - _WORDS - _MORE_WORDS),
            pictures=pictures,
            fault="; ".join(faults),
        )

    def _pictures(self, part: str, path: str) -> Sequence[str]:
        if (part, path) not in self._seen:
            if part == "image":
                pixels = self._process.read_image(path, max_pixels=_DECODED, min_pixels=_LEAST).pixels
            else:
                decoded = self._process.decode(
                    path, self._plan, max_pixels=_DECODED, min_pixels=_LEAST, strict=False
                )
                pixels = decoded.samples[0].pixels
            self._seen[part, path] = [
                picture(encode_jpeg(frame), size=THUMBNAIL, quality=QUALITY) for frame in pixels
            ]
        return self._seen[part, path]
