"""Convert public data sets to rows of the pair schema.

    for row in convert(config): ...    # None for a row of the file that makes no pair

A row of a file makes a pair for each query with each target, such as each caption of an image. Media stay
references and are not opened. formats.py lists the data sets, records.py reads their files.
"""

from array import array
from collections.abc import Container, Iterator
from itertools import product
from typing import Any

import numpy as np

from gve_ray.training.config import DataSetConfig
from gve_ray.training.pairs import id_of
from gve_ray.training.readers.reader import Record, Side, task_of
from gve_ray.training.records import read_records

DOMAIN = "general"

_NO_MEDIA = {"text": None, "image": None, "video": None}


def convert(config: DataSetConfig) -> Iterator[dict[str, Any] | None]:
    """Yield the rows of one data set in `PAIR_SCHEMA`, and None for each row that makes no pair.

    Raises ValueError naming the data set and the file for an unknown file type, missing columns or a malformed
    row, and OSError if a file cannot be read.
    """
    task = task_of(config).value
    try:
        dropped: Container[int] = _repeated(config) if config.drop_repeated else ()
        number = 0
        for record in read_records(config):
            if record is None:
                yield None
                continue
            for query, target in product(record.queries, record.targets):
                if dropped and id_of(_caption(query, target)) in dropped:
                    yield None
                    continue
                yield {
                    "pair_id": f"{config.name}-{number}",
                    "task": task,
                    "query": {**_NO_MEDIA, **query},
                    "target": {**_NO_MEDIA, **target},
                    "negatives": [{**_NO_MEDIA, **negative} for negative in record.negatives],
                    "instruction": config.instruction,
                    "domain": DOMAIN,
                    "style": config.format,
                }
                number += 1
    except ValueError as error:
        raise ValueError(f"data.{config.name}.uri={config.uri!r}: {error}") from error


def _caption(query: Side, target: Side) -> str:
    return query["text"] if "text" in query else target["text"]


def _medium(query: Side, target: Side) -> str:
    return next(value for side in (query, target) for field, value in side.items() if field != "text")


def _repeated(config: DataSetConfig) -> frozenset[int]:
    """Return the hashes of the captions that occur with more than one image or video.

    This reads the whole data set and holds two 8-byte hashes per pair (16 bytes, and a few times that while they
    are sorted), not the captions.
    """
    captions, media = array("q"), array("q")
    for record in read_records(config):
        for query, target in _pairs_of(record):
            captions.append(id_of(_caption(query, target)))
            media.append(id_of(_medium(query, target)))
    keys, values = np.frombuffer(captions, dtype=np.int64), np.frombuffer(media, dtype=np.int64)
    order = np.lexsort((values, keys))
    keys, values = keys[order], values[order]
    differs = (keys[1:] == keys[:-1]) & (values[1:] != values[:-1])
    return frozenset(keys[1:][differs].tolist())


def _pairs_of(record: Record | None) -> Iterator[tuple[Side, Side]]:
    return iter(()) if record is None else product(record.queries, record.targets)
