"""Readers of files whose rows refer to entries of other files by id: a pool of candidates, or BEIR's corpus."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from gve_ray.errors import shown
from gve_ray.inputs.cells import name
from gve_ray.inputs.table import is_table
from gve_ray.training.readers.reader import Reader, Record, Rows, Side
from gve_ray.training.templates import ids_in, passages


def pool(reader: Reader) -> Rows:
    """Rows with the ids of their positives and negatives, and a second table with what these are.

    A row, and an entry of the pool, is of the task if it has the modalities of the task and no others:
    M-BEIR keeps several tasks in one file.
    """
    config, columns = reader.config, reader.columns
    positives, negatives = columns["positives"], columns["negatives"]
    optional = {negatives} if "negatives" not in config.columns else set()
    optional |= _of_other_tasks(reader, "query")
    read = [*_all_columns(reader, "query"), positives, negatives, *config.minimum]
    wanted: set[str] = set()
    for row in reader.rows(config.uri, read, optional):
        try:
            wanted.update(ids_in(positives, row.cells.get), ids_in(negatives, row.cells.get))
        except ValueError as error:
            raise ValueError(f"{row.place} has {error}") from None
    entries = _entries(reader, wanted)
    for row in reader.rows(config.uri, read, optional):
        yield row.place, partial(_of_pool, reader, entries, row.cells)


def _entries(reader: Reader, wanted: Collection[str]) -> dict[str, list[Side]]:
    """Return the entries of the pool with these ids; an entry that is not of the task is an empty list."""
    source, key = reader.config.pool, reader.columns["id"]
    read = [key, *_all_columns(reader, "target")]
    entries = {}
    for row in reader.rows(source, read, _of_other_tasks(reader, "target")):
        try:
            for entry in ids_in(key, row.cells.get):
                if entry in wanted:
                    entries[entry] = reader.only("target", row.cells.get)
        except ValueError as error:
            raise ValueError(f"{source}: {row.place} has {error}") from None
    return entries


def _of_pool(reader: Reader, entries: Mapping[str, list[Side]], cells: Mapping[str, Any]) -> list[Record]:
    if not reader.is_kept(cells):
        return []
    sides: dict[str, list[Side]] = {}
    for field in ("positives", "negatives"):
        column = reader.columns[field]
        ids = ids_in(column, cells.get)
        if lost := next((entry for entry in ids if entry not in entries), None):
            raise ValueError(
                f"{column}={shown(lost)}: {reader.config.pool} has no such entry; name the pool it is in"
            )
        sides[field] = [side for entry in ids for side in entries[entry]]
    return [Record(reader.only("query", cells.get), sides["positives"], sides["negatives"])]


def _all_columns(reader: Reader, side: str) -> list[str]:
    sources: Mapping[str, str] = getattr(reader.format, side)
    return [reader.columns[field] for field in sources.values() if field in reader.columns]


def _of_other_tasks(reader: Reader, side: str) -> set[str]:
    return set(_all_columns(reader, side)) - {column for _, column in reader.fields[side]}


def qrels(reader: Reader) -> Rows:
    """BEIR's folder: a table of judgements in qrels/; its parent folder has the queries and the corpus."""
    config = reader.config
    query, target, score = (reader.columns[field] for field in ("query_id", "target_id", "score"))
    read = [query, target, score, *config.minimum]
    wanted: tuple[set[str], set[str]] = (set(), set())
    for row in reader.rows(config.uri, read):
        for ids, column in zip(wanted, (query, target), strict=True):
            ids.update(ids_in(column, row.cells.get))
    queries = _documents(reader, beside_qrels(config.uri, "queries"), wanted[0])
    corpus = _documents(reader, beside_qrels(config.uri, "corpus"), wanted[1])

    def read_row(cells: Mapping[str, Any]) -> list[Record]:
        sides: list[list[Side]] = []
        for column, documents, file in ((query, queries, "queries"), (target, corpus, "corpus")):
            ids = ids_in(column, cells.get)
            if lost := next((entry for entry in ids if entry not in documents), None):
                raise ValueError(f"{column}={shown(lost)}: the {file} beside it has no such id")
            sides.append([side for entry in ids for side in documents[entry]])
        # A score of 0 marks a document that is not relevant.
        return (
            [Record(sides[0], sides[1], [])]
            if reader.is_kept(cells) and name(cells.get(score)) != "0"
            else []
        )

    for row in reader.rows(config.uri, read):
        yield row.place, partial(read_row, row.cells)


def beside_qrels(uri: str, file: str) -> str:
    """Return the path of the queries or the corpus of a BEIR folder. Raises ValueError if there is none."""
    folder = uri.rpartition("/")[0].rpartition("/")[0] or "."
    names = [f"{folder}/{file}{suffix}" for suffix in (".jsonl", ".jsonl.gz", ".parquet")]
    found = next((path for path in names if is_table(path)), None)
    if found is None:
        raise ValueError(f"no {names[0]} beside it; name the judgements as FOLDER/qrels/train.tsv")
    return found


def _documents(reader: Reader, source: str, wanted: Collection[str]) -> dict[str, list[Side]]:
    documents = {}
    for row in reader.rows(source, ["_id", "title", "text"], ["title"]):
        for key in ids_in("_id", row.cells.get):
            if key in wanted:
                documents[key] = [{"text": text} for text in passages({"text": None, **row.cells})]
    return documents
