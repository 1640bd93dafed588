"""Data sets in folders: the layout UVRB is published in, mteb's, and a validator that opens every medium.

    check("uvrb/MSRVTT")        # [Fault(...)]: print them before anything is embedded
    load("uvrb/MSRVTT")         # RetrievalSet: what is sound, and in `skipped` what is not

The published layout (paper section 2), one folder a data set:

    jsonl/queries.jsonl         {"id", "text"?, "image"?, "video"?}
    jsonl/corpus.jsonl          {"id", "video"}; text and image are read, too
    jsonl/instances.jsonl       {"qid", "pos": [ids], "neg"?: [ids], "candidates"?: [ids]}; a qid may repeat
    images/<image>
    videos_frames/<video without extension>/*.jpg|png      or videos/<video>, or <video> itself

A set whose queries rank only some of the corpus lists them: `candidates` are those, `neg` the wrong ones
among them; either, or both, and the positives always belong. Fields left empty in all lines are no lists.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gve_ray.evaluation.data.data_errors import Fault, Faults, shown
from gve_ray.evaluation.data.dataset_folder import Place, place_of
from gve_ray.evaluation.data.jsonl_items import Rows, id_of, read_rows, table_rows, where
from gve_ray.evaluation.data.retrieval_set import RetrievalSet, Verdicts
from gve_ray.media import FACTOR, DecodeProcess, FrameRequest, MediaError, VideoInfo, read_image

__all__ = ["Fault", "RetrievalSet", "check", "check_media", "load", "load_mteb"]

QUERIES, CORPUS, INSTANCES = "jsonl/queries.jsonl", "jsonl/corpus.jsonl", "jsonl/instances.jsonl"
_LISTS = ("pos", "neg", "candidates")
_LEAST_PIXELS = FACTOR * FACTOR  # of a frame that is only checked
_BAD_MEDIUM = (MediaError, OSError, ValueError, MemoryError)


def load(folder: str | Path, *, name: str | None = None) -> RetrievalSet:
    """A data set of the published layout, in a folder or behind a URI. name: default the folder's.

    Media must be there, but none is decoded. What is wrong is left out and told in `skipped`: every line of
    the queries' file is a query, or the place of one fault, or in the `queries` of one fault. Does not
    raise on bad data; a folder that is no data set gives an empty one, whose `skipped` says why.
    """
    root, faults = _open(folder, name, (QUERIES, CORPUS, INSTANCES))
    if root is None:
        return Verdicts(Rows(file=QUERIES), Rows(file=CORPUS), faults).result()
    queries, corpus = read_rows(root, QUERIES, faults), read_rows(root, CORPUS, faults)
    verdicts = Verdicts(queries, corpus, faults)
    for row in table_rows(root, INSTANCES, faults):
        _judge(verdicts, faults, row.cells, where(INSTANCES, row))
    return verdicts.result()


def load_mteb(folder: str | Path, *, name: str | None = None, split: str = "test") -> RetrievalSet:
    """An mteb-style retrieval folder: corpus.jsonl, queries.jsonl, qrels/<split>.tsv.

    Lines are `{"_id", "title"?, "text"?, "image"?, "video"?}`, media named as in the published layout or by
    a path inside the folder; qrels are query id, corpus id and score, with or without a line of names. A
    score above 0 is relevant. Queries that the qrels do not name are of another split, and no fault.
    Otherwise as `load`.
    """
    qrels = f"qrels/{split}.tsv"
    root, faults = _open(folder, name, ("queries.jsonl", "corpus.jsonl", qrels))
    if root is None:
        return Verdicts(Rows(file="queries.jsonl"), Rows(file="corpus.jsonl"), faults).result()
    queries = read_rows(root, "queries.jsonl", faults, adapt=_from_mteb)
    corpus = read_rows(root, "corpus.jsonl", faults, adapt=_from_mteb)
    verdicts = Verdicts(queries, corpus, faults)
    for row in table_rows(root, qrels, faults, header=False):
        cells = list(row.cells.values())
        if row.number > 1 or cells[-1] != "score":
            _judge_mteb(verdicts, faults, cells, where(qrels, row))
    return verdicts.result(only_judged=True)


def check(
    folder: str | Path, *, name: str | None = None, frames: int | None = None, workers: int = 1
) -> list[Fault]:
    """All that is wrong with a data set of the published layout: what `load` leaves out, and `check_media`."""
    found = load(folder, name=name)
    return found.skipped + check_media(found, frames=frames, workers=workers)


def check_media(data: RetrievalSet, *, frames: int | None = None, workers: int = 1) -> list[Fault]:
    """The media of a data set that do not decode, one fault each, however many items share it.

    frames: None decodes every frame of every video and refuses damage anywhere; a number takes as many
    uniform frames, by the very reads of a run with that many: faster, and what that run will skip. Videos
    are decoded in child processes (one a worker) that may hang, crash or run out of memory without harm.
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
        for found in pool.map(lambda i: _broken(media[i::workers], frames), range(workers)):
            broken |= found
    return [
        Fault(dataset=data.name, where=_first_of(users[one]), what=f"{one[0]} {one[1]!r}: {broken[one]}")
        for one in media
        if one in broken
    ]


def every_frame(info: VideoInfo) -> Sequence[FrameRequest]:
    """All pictures of a folder of frames; of a file one, since a strict decode sees them all anyway."""
    return [FrameRequest(k=info.total_frames if info.container == "folder" else 1)]


def _broken(media: Sequence[tuple[str, str]], frames: int | None) -> dict[tuple[str, str], str]:
    """What is wrong with those of these (image or video, path) that do not decode."""
    found = {}
    plan = every_frame if frames is None else [FrameRequest(k=frames)]
    with DecodeProcess() as process:
        for part, path in media:
            try:
                if part == "image":
                    read_image(path)
                else:
                    process.decode(
                        path, plan, max_pixels=_LEAST_PIXELS, min_pixels=_LEAST_PIXELS, strict=frames is None
                    )
            except _BAD_MEDIUM as error:
                found[part, path] = str(error) or type(error).__name__
    return found


def _first_of(users: Sequence[str]) -> str:
    return users[0] if len(users) == 1 else f"{users[0]} and {len(users) - 1} more"


def _open(folder: str | Path, name: str | None, files: Sequence[str]) -> tuple[Place | None, Faults]:
    """The data set's folder, None if one of its files is not there, and its list of faults."""
    root = place_of(folder)
    faults = Faults(name or root.name)
    missing = [file for file in files if not root.is_file(file)]
    for file in missing:
        faults.add(file, f"no such file in {shown(str(folder))}; a data set has {', '.join(files)}")
    return None if missing else root, faults


def _judge(verdicts: Verdicts, faults: Faults, fields: Mapping[str, Any], place: str) -> None:
    """Take in one line of instances."""
    query_id = id_of(fields.get("qid"))
    if not verdicts.knows(query_id, place):
        return
    assert query_id is not None
    lists = {field: _ids(fields.get(field)) for field in _LISTS}
    bad = [field for field in _LISTS if lists[field] is None or (field == "pos" and not lists[field])]
    if bad:
        what = f"{bad[0]}={shown(fields.get(bad[0]))}: give a list of corpus ids"
        verdicts.blame(query_id, faults.add(place, what))
        return
    verdicts.relevant(query_id, lists["pos"] or (), place)
    verdicts.candidates(query_id, [*(lists["neg"] or ()), *(lists["candidates"] or ())], place)


def _ids(value: Any) -> list[str] | None:
    """A list of ids, empty where there is none; None for what is no list of ids."""
    if value is None:
        return []
    if not isinstance(value, list):
        return None
    ids = [id_of(one) for one in value]
    return None if None in ids else [one for one in ids if one is not None]


def _judge_mteb(verdicts: Verdicts, faults: Faults, cells: Sequence[str | None], place: str) -> None:
    """Take in one line of qrels."""
    try:
        query_id, corpus_id, score = map(id_of, cells)
        relevant = float(score or "") > 0
    except ValueError:
        faults.add(place, f"{shown(list(cells))}: give query id, corpus id and score between tabs")
        return
    if verdicts.knows(query_id, place):
        assert query_id is not None
        verdicts.relevant(query_id, [corpus_id or ""] if relevant else [], place)


def _from_mteb(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """A line of mteb's corpus or queries in the published form; a title stands before its text."""
    title, text = fields.get("title"), fields.get("text")
    if isinstance(title, str) and isinstance(text, str | None):
        text = " ".join(part for part in (title.strip(), text) if part)
    return {**fields, "id": fields.get("_id", fields.get("id")), "text": text}
