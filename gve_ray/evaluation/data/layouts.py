"""Reads data sets in UVRB's published layout and in mteb's, and checks that all their media decode.

    data = load("uvrb/MSRVTT")        # RetrievalSet: the valid part; `data.skipped` has the errors
    check_media(data, frames=8)       # [DataError(...)]: the media that do not decode

The published layout (arXiv:2510.27571, section 2) is one folder per data set:

    jsonl/queries.jsonl         {"id", "text"?, "image"?, "video"?}
    jsonl/corpus.jsonl          {"id", "video"}; text and image are read, too
    jsonl/instances.jsonl       {"qid", "pos": [ids], "neg"?: [ids], "candidates"?: [ids]}; a qid may repeat
    images/<image>
    videos_frames/<video without extension>/*.jpg|png      or videos/<video>, or <video> itself

If queries rank only part of the corpus, that part is listed in `candidates`, in `neg` (the
negatives among the candidates), or in both; positives are always included. A field that is empty in
every line is ignored.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gve_ray.errors import shown
from gve_ray.evaluation.data.data_errors import DataError, DataErrorLog
from gve_ray.evaluation.data.dataset_folder import DatasetFolder, open_folder
from gve_ray.evaluation.data.jsonl_items import JsonlItems, id_of, read_items, table_rows, where
from gve_ray.evaluation.data.retrieval_set import RetrievalSet, RetrievalSetBuilder
from gve_ray.media import FACTOR, DecodeProcess, FrameRequest, MediaError, read_image

QUERIES, CORPUS, INSTANCES = "jsonl/queries.jsonl", "jsonl/corpus.jsonl", "jsonl/instances.jsonl"
_LISTS = ("pos", "neg", "candidates")
_LEAST_PIXELS = FACTOR * FACTOR  # size of a frame that is decoded only to check it
_BAD_MEDIUM = (MediaError, OSError, ValueError, MemoryError)


def load(folder: str | Path, *, name: str | None = None) -> RetrievalSet:
    """Load a data set of the published layout; its name defaults to that of the folder or URI.

    Media files are neither decoded nor must they exist: `check_media` reports those that cannot be
    read, and a run counts them as misses. Invalid lines are left out and listed in `skipped`:
    every line of the query file is a query, or the location of one error, or in the `queries` of
    one error. Does not raise on bad data; a folder that is not a data set gives an empty set whose
    `skipped` says why.
    """
    root, errors = _open(folder, name, (QUERIES, CORPUS, INSTANCES))
    if root is None:
        return RetrievalSetBuilder(JsonlItems(file=QUERIES), JsonlItems(file=CORPUS), errors).build()
    queries, corpus = read_items(root, QUERIES, errors), read_items(root, CORPUS, errors)
    builder = RetrievalSetBuilder(queries, corpus, errors)
    for row in table_rows(root, INSTANCES, errors):
        _judge(builder, errors, row.cells, where(INSTANCES, row))
    return builder.build()


def load_mteb(folder: str | Path, *, name: str | None = None, split: str = "test") -> RetrievalSet:
    """Load an mteb-style retrieval folder: corpus.jsonl, queries.jsonl, qrels/<split>.tsv.

    Lines are `{"_id", "title"?, "text"?, "image"?, "video"?}`, with media named as in the published
    layout or by a path inside the folder. Each line of qrels has a query id, a corpus id and a
    score; a header is optional. A score above 0 means relevant. Queries that do not occur in qrels
    belong to another split and are not an error. Otherwise like `load`.
    """
    qrels = f"qrels/{split}.tsv"
    root, errors = _open(folder, name, ("queries.jsonl", "corpus.jsonl", qrels))
    if root is None:
        return RetrievalSetBuilder(
            JsonlItems(file="queries.jsonl"), JsonlItems(file="corpus.jsonl"), errors
        ).build()
    queries = read_items(root, "queries.jsonl", errors, adapt=_from_mteb)
    corpus = read_items(root, "corpus.jsonl", errors, adapt=_from_mteb)
    builder = RetrievalSetBuilder(queries, corpus, errors)
    for row in table_rows(root, qrels, errors, header=False):
        cells = list(row.cells.values())
        if row.number > 1 or cells[-1] != "score":
            _judge_mteb(builder, errors, cells, where(qrels, row))
    return builder.build(only_judged=True)


def check_media(data: RetrievalSet, *, frames: int, workers: int = 1) -> list[DataError]:
    """Find the media of a data set that do not decode: one error per file, for all of its items.

    frames: uniform frames of a video, decoded exactly as a run does, which reports what that run
    would skip. Each worker decodes in a child process, so a decoder that hangs, crashes or runs out
    of memory does no harm.
    """
    users: dict[tuple[str, str], list[str]] = {}
    for kind, ids, items in (
        ("query", data.query_ids, data.queries),
        ("corpus", data.corpus_ids, data.corpus),
    ):
        for key, item in zip(ids, items, strict=True):
            for part in ("image", "video"):
                medium = getattr(item, part)
                if isinstance(medium, str):
                    users.setdefault((part, medium), []).append(f"{kind} id {shown(key)}")
    media = list(users)
    broken: dict[tuple[str, str], str] = {}
    with ThreadPoolExecutor(workers) as pool:
        for result in pool.map(lambda i: _broken(media[i::workers], frames), range(workers)):
            broken |= result
    return [
        DataError(
            dataset=data.name, where=_first_of(users[file]), what=f"{file[0]} {file[1]!r}: {broken[file]}"
        )
        for file in media
        if file in broken
    ]


def _broken(media: Sequence[tuple[str, str]], frames: int) -> dict[tuple[str, str], str]:
    """By ("image" or "video", path), what is wrong with those of these media that do not decode."""
    problems = {}
    plan = [FrameRequest(k=frames)]
    with DecodeProcess() as process:
        for part, path in media:
            try:
                if part == "image":
                    read_image(path)
                else:
                    process.decode(
                        path, plan, max_pixels=_LEAST_PIXELS, min_pixels=_LEAST_PIXELS, strict=False
                    )
            except _BAD_MEDIUM as error:
                problems[part, path] = str(error) or type(error).__name__
    return problems


def _first_of(users: Sequence[str]) -> str:
    return users[0] if len(users) == 1 else f"{users[0]} and {len(users) - 1} more"


def _open(
    folder: str | Path, name: str | None, files: Sequence[str]
) -> tuple[DatasetFolder | None, DataErrorLog]:
    """The data set's folder, or None if one of its files is missing, and its error log."""
    root = open_folder(folder)
    errors = DataErrorLog(name or root.name)
    missing = [file for file in files if not root.is_file(file)]
    for file in missing:
        errors.add(file, f"not found in {shown(str(folder))}; a data set needs {', '.join(files)}")
    return None if missing else root, errors


def _judge(
    builder: RetrievalSetBuilder, errors: DataErrorLog, fields: Mapping[str, Any], location: str
) -> None:
    """Add one line of instances.jsonl."""
    query_id = id_of(fields.get("qid"))
    if not builder.check_query(query_id, location):
        return
    assert query_id is not None
    lists = {field: _ids(fields.get(field)) for field in _LISTS}
    bad = [field for field in _LISTS if lists[field] is None or (field == "pos" and not lists[field])]
    if bad:
        what = f"{bad[0]}={shown(fields.get(bad[0]))}: give a list of corpus ids"
        builder.blame(query_id, errors.add(location, what))
        return
    builder.add_positives(query_id, lists["pos"] or (), location)
    builder.add_candidates(query_id, [*(lists["neg"] or ()), *(lists["candidates"] or ())], location)


def _ids(value: Any) -> list[str] | None:
    """A list of ids, empty for None; None if the value is not a list of ids."""
    if value is None:
        return []
    if not isinstance(value, list):
        return None
    ids = [id_of(element) for element in value]
    return None if None in ids else [key for key in ids if key is not None]


def _judge_mteb(
    builder: RetrievalSetBuilder, errors: DataErrorLog, cells: Sequence[str | None], location: str
) -> None:
    """Add one line of qrels."""
    try:
        query_id, corpus_id, score = map(id_of, cells)
        relevant = float(score or "") > 0
    except ValueError:
        errors.add(location, f"{shown(list(cells))}: give query id, corpus id and score between tabs")
        return
    if builder.check_query(query_id, location):
        assert query_id is not None
        builder.add_positives(query_id, [corpus_id or ""] if relevant else [], location)


def _from_mteb(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert a line of mteb's corpus or queries; the title is put before the text."""
    title, text = fields.get("title"), fields.get("text")
    if isinstance(title, str) and isinstance(text, str | None):
        text = " ".join(part for part in (title.strip(), text) if part)
    return {**fields, "id": fields.get("_id", fields.get("id")), "text": text}
