"""Read the files of public data sets as records: what a row has as query, target and hard negatives.

    for record in read_records(config): ...    # None for a row that makes no pair

Each module of `readers` serves some forms of files (formats.py). Media stay references and are not opened. Rows
are streamed; of a pool, only the entries that the rows refer to are held in memory.
"""

from collections.abc import Callable, Iterator, Mapping

from pyarrow import fs

from gve_ray.inputs.listing import find_files
from gve_ray.inputs.table import FORMS, is_table, kind_of
from gve_ray.training.config import DataSetConfig
from gve_ray.training.formats import FORMATS
from gve_ray.training.pairs import id_of
from gve_ray.training.readers.reader import Reader, Record, Rows
from gve_ray.training.readers.references import beside_qrels, pool, qrels
from gve_ray.training.readers.rows import class_folders, conversations, json_files, table

_READERS: Mapping[str, Callable[[Reader], Rows]] = {
    "table": table,
    "json_files": json_files,
    "conversations": conversations,
    "pool": pool,
    "qrels": qrels,
    "class_folders": class_folders,
}


def read_records(config: DataSetConfig) -> Iterator[Record | None]:
    """Yield one record per row of a data set, and None for a row that lacks its query or target.

    Raises ValueError for a file that is missing, is of the wrong kind, lacks columns or has a malformed
    row, and OSError if it cannot be read.
    """
    reader = Reader(config)
    for number, (place, read) in enumerate(_READERS[reader.format.reader](reader)):
        try:
            records = read()
        except ValueError as error:
            raise ValueError(f"{place} has {error}") from None
        complete = [record for record in records if record.queries and record.targets]
        if reader.format.one_caption:
            complete = [_one_query(record, f"{config.name} {number}") for record in complete]
        if complete:
            yield from complete
        else:
            yield None


def _one_query(record: Record, seed: str) -> Record:
    """Choose one of the queries at random. The choice depends only on the seed."""
    return record._replace(queries=[record.queries[id_of(seed) % len(record.queries)]])


def check_source(config: DataSetConfig) -> None:
    """Raise ValueError if a file of a data set does not exist or is of the wrong kind, and OSError likewise."""
    reader = FORMATS[config.format].reader
    wanted = {"uri": config.uri, "pool": config.pool} if config.pool else {"uri": config.uri}
    for option, source in wanted.items():
        try:
            if reader == "class_folders":
                kind = fs.FileType.Directory if option == "uri" else fs.FileType.File
                what = f"no such {'folder of class folders' if option == 'uri' else 'file'}"
                is_valid = kind_of(source) == kind
            elif reader == "json_files":
                what = "no such file; give a glob of JSON files"
                is_valid = all(kind_of(file) == fs.FileType.File for file in find_files(source))
            else:
                what = f"no such file, or none that ends in {FORMS}"
                is_valid = all(map(is_table, find_files(source)))
            if reader == "qrels" and is_valid:
                beside_qrels(source, "corpus"), beside_qrels(source, "queries")
        except ValueError as error:
            what, is_valid = str(error), False
        if not is_valid:
            raise ValueError(f"data.{config.name}.{option}={source}: {what}")
